"""Imports point one way, and importing the public packages stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "service" / "slidecascade"

# Each row may import from its own row and the rows above it.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"", "errors", "geometry", "wire", "control", "cores", "memory", "warning"}),
    frozenset({"onnxgraph", "settings", "stopwatch", "tiling", "registry", "metrics", "logs", "heaps", "cells"}),
    frozenset({"analysis", "runners", "slides"}),
    frozenset({"runners.choice"}),
    frozenset({"pipelines", "outputs"}),
    frozenset({"cells.cascade", "tilework", "regiontask", "footprint"}),
    frozenset({"flow"}),
    frozenset({"analyser"}),
    frozenset({"web"}),
    frozenset({"modelservice", "server"}),
    frozenset({"app"}),
    frozenset({"modelprocess", "modelprocesses"}),
    frozenset({"serve"}),
    frozenset({"commands", "cli", "__main__"}),
)
HEAVY = ("bentoml", "cv2", "onnxruntime", "openslide", "tensorflow", "torch", "fastapi", "tritonclient")
ONE_IMPORTER = {
    "openslide": {"slides.slide"},
    "onnxruntime": {"runners.local"},
    "simplejpeg": {"slides.jpeg"},
    "tritonclient": {"runners.triton"},
    "bentoml": {"app", "modelprocesses", "modelservice", "runners.bento"},
    "aiohttp": {"runners.bento"},
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in SOURCES.rglob("*.py"):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def _imported(path: Path) -> set[str]:
    """Every module named in an import statement anywhere in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _layer(module: str) -> int | None:
    """The row of a module: its own, or that of the closest package above it."""
    while True:
        for index, row in enumerate(LAYERS):
            if module in row:
                return index
        if "." not in module:
            return None
        module = module.rpartition(".")[0]


def test_every_module_has_a_layer() -> None:
    """A new module is given its place before it is used."""
    homeless = sorted(module for module in _modules() if module and _layer(module) is None)
    assert not homeless


def test_imports_point_one_way() -> None:
    """No module imports from a layer that builds on it."""
    modules = _modules()
    wrong = []
    for module, path in modules.items():
        for name in _imported(path):
            target = name.removeprefix("slidecascade.")
            if name == target or target not in modules:
                continue
            if (_layer(target) or 0) > (_layer(module) or 0):
                wrong.append(f"{module} imports {target}")
    assert not sorted(wrong)


@pytest.mark.parametrize(("library", "allowed"), ONE_IMPORTER.items())
def test_a_foreign_library_has_one_home(library: str, allowed: set[str]) -> None:
    """Each of them is imported in one place."""
    importers = {
        module
        for module, path in _modules().items()
        if any(name.split(".")[0] in (library, f"_{library}_impl", f"_{library}_sdk") for name in _imported(path))
    }
    assert importers <= allowed


@pytest.mark.parametrize(
    "package",
    ["slidecascade", "slidecascade_client", "slidecascade_convert", "slidecascade_training", "slidecascade.wire"],
)
def test_importing_is_cheap(package: str) -> None:
    """Importing the public packages loads none of the heavy libraries."""
    code = f"import sys, {package}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
