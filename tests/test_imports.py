"""Imports point one way in every package, and importing the public packages stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("service", "clients", "converters", "training", ".")

# The floors of the house, from the ground up: a module imports from its own floor and those below. A name stands
# for a module or a package and all that is in it; the longest name that fits counts.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"slidecascade_render"}),
    frozenset({"slidecascade_render.liver"}),
    frozenset(
        {
            "slidecascade",
            "slidecascade.errors",
            "slidecascade.geometry",
            "slidecascade.heaps",
            "slidecascade.confinement",
            "slidecascade.seccomp",
            "slidecascade.cores",
            "slidecascade.privacy",
            "slidecascade.staging",
            "slidecascade.warning",
        }
    ),
    frozenset(
        {
            "slidecascade.wire",
            "slidecascade.settings",
            "slidecascade.metrics",
            "slidecascade.cancellation",
            "slidecascade.hosts",
            "slidecascade.timing",
            "slidecascade.logs",
            "slidecascade.memory",
        }
    ),
    # A head knows what it wants of a network and nothing of tiles, so that a package can be checked against it.
    frozenset(
        {
            "slidecascade.models",
            "slidecascade.heads",
            "slidecascade.slides",
            "slidecascade.rings",
            "slidecascade_client",
            "slidecascade.access",
            "slidecascade.fhir",
            "slidecascade.empaia",
        }
    ),
    frozenset(
        {
            "slidecascade.pipelines",
            "slidecascade.runners",
            "slidecascade_lis",
            "slidecascade_render.fluorescence",
        }
    ),
    frozenset({"slidecascade.kinds"}),
    frozenset({"slidecascade.cells", "slidecascade.patches", "slidecascade.areas"}),
    # The table of the kinds there are knows all that a kind is.
    frozenset({"slidecascade.outputs", "slidecascade.kinds.table", "slidecascade.analysis"}),
    frozenset({"slidecascade_evaluation.annotation", "slidecascade_evaluation.matching"}),
    frozenset({f"slidecascade_evaluation.{name}" for name in ("dsb2018", "geojson", "rasters", "scores")}),
    frozenset({"slidecascade_evaluation"}),
    frozenset({"slidecascade.jobs", "slidecascade.exports"}),
    frozenset({"slidecascade_convert", "slidecascade.web"}),
    frozenset(
        {
            f"slidecascade_training.{name}"
            for name in (
                "prefetch",
                "backend",
                "calibration",
                "checkpoint",
                "claim",
                "datasets",
                "eventlog",
                "schedule",
                "timelimit",
            )
        }
    ),
    frozenset({"slidecascade_training.fit", "slidecascade_training.exportprocess"}),
    frozenset({f"slidecascade_training.{name}" for name in ("packages", "nuclei.network", "nuclei.targets")}),
    frozenset({"slidecascade_training.recipes"}),
    frozenset({"slidecascade_training", "slidecascade.hosting"}),
    frozenset({"slidecascade.commands", "slidecascade.cli", "slidecascade.__main__"}),
    frozenset({"benchmarks"}),
)
HEAVY = ("bentoml", "cv2", "onnxruntime", "openslide", "tensorflow", "torch", "fastapi", "tritonclient")
ONE_IMPORTER = {
    "openslide": {"slidecascade.slides.slide"},
    "onnxruntime": {"slidecascade.runners.local"},
    "simplejpeg": {"slidecascade.slides.jpeg"},
    "tritonclient": {"slidecascade.runners.triton"},
    "bentoml": {
        "slidecascade.hosting.bento_entry",
        "slidecascade.hosting.bento_model",
        "slidecascade.hosting.supervisor",
        "slidecascade.runners.bento",
    },
    "pyarrow": {"slidecascade.cells.arrow", "slidecascade.outputs.cells.geoparquet"},
    "aiohttp": {"slidecascade.runners.bento"},
    "dbos": {"slidecascade.jobs.durable"},
    "sqlalchemy": {
        f"slidecascade.jobs.{name}" for name in ("database", "idempotency", "records", "workers", "outbox")
    },
    "pydicom": {
        f"slidecascade.exports.{name}"
        for name in (
            "bulkannotations",
            "dicomcodes",
            "dicomobject",
            "dicomsource",
            "parametricmap",
            "segmentation",
            "structuredreport",
        )
    },
    "jwt": {"slidecascade.access.tokens"},
    "standardwebhooks": {"slidecascade.jobs.webhooks"},
}
"""Which modules of the service import a foreign library."""


def _modules() -> dict[str, Path]:
    found = {}
    for root in SOURCE_ROOTS:
        folder = REPOSITORY / root
        packages = [folder / "benchmarks"] if root == "." else sorted(folder.glob("slidecascade*"))
        for package in packages:
            for path in package.rglob("*.py"):
                parts = path.relative_to(folder).with_suffix("").parts
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


def _floor(module: str) -> int | None:
    """The floor of a module: its own, or that of the closest package above it.

    ``slidecascade`` itself is on the ground, what is in it has a floor of its own.
    """
    name = module
    while name:
        for index, floor in enumerate(FLOORS):
            if name in floor and (name != "slidecascade" or module == "slidecascade"):
                return index
        name = name.rpartition(".")[0]
    return None


def test_every_module_has_a_floor() -> None:
    """A new module or package is given its place before it is used."""
    homeless = sorted(module for module in _modules() if _floor(module) is None)
    assert not homeless


def test_imports_point_down() -> None:
    """No module imports from a floor above its own, in any package or benchmark."""
    modules = _modules()
    wrong = []
    for module, path in modules.items():
        for target in _imported(path):
            if target in modules and (_floor(target) or 0) > (_floor(module) or 0):
                wrong.append(f"{module} imports {target}")
    assert not sorted(wrong)


def test_nothing_imports_the_tests() -> None:
    """What is shipped or measured stands without the test suite."""
    of_tests = {path.stem for path in (REPOSITORY / "tests").glob("*.py")} | {"tests"}
    modules = _modules()
    wrong = [
        f"{module} imports {name}"
        for module, path in modules.items()
        for name in _imported(path)
        if name.split(".")[0] in of_tests and name not in modules
    ]
    assert not sorted(wrong)


@pytest.mark.parametrize(("library", "allowed"), ONE_IMPORTER.items())
def test_a_foreign_library_has_one_home(library: str, allowed: set[str]) -> None:
    """In the service each of them is imported in one place."""
    importers = {
        module
        for module, path in _modules().items()
        if module.startswith("slidecascade.")
        and any(name.split(".")[0] in (library, f"_{library}_impl", f"_{library}_sdk") for name in _imported(path))
    }
    assert importers <= allowed


@pytest.mark.parametrize(
    "package",
    [
        "slidecascade",
        "slidecascade_client",
        "slidecascade_convert",
        "slidecascade_evaluation",
        "slidecascade_lis",
        "slidecascade_render",
        "slidecascade_training",
        "slidecascade.wire",
    ],
)
def test_importing_is_cheap(package: str) -> None:
    """Importing the public packages loads none of the heavy libraries."""
    code = f"import sys, {package}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
