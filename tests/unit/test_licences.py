"""What a build holds is written down: an SBOM, and a line for every copyleft licence among what is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
COPYLEFT = re.compile(r"\b([AL]?GPL|MPL|Mozilla|EPL|CDDL|EUPL|GNU|Eclipse|CeCILL|OSL|SSPL)\b|GPLv", re.IGNORECASE)


def required(file: str) -> dict[str, str]:
    """Names and versions that a file of requirements pins; of several versions by platform, the last."""
    lines = (REQUIREMENTS / file).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ \\;]+)", line) for line in lines)
    return {item[1].lower(): item[2] for item in found if item}


def licence(name: str) -> str | None:
    """What an installed package says of its licence; None: it is not installed here."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    stated = [line for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    written = [*about.get_all("License-Expression", []), "; ".join(stated), *about.get_all("License", [])]
    return next((text.partition("\n")[0] for text in written if text), "")


def documented() -> set[str]:
    rows = re.findall(r"^\| ([a-z0-9, -]+) \| [A-Z]", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    return {name for row in rows for name in row.split(", ")}


def test_every_copyleft_licence_has_a_line() -> None:
    """And every line is of such a package: of those that a build for serving installs."""
    stated = {name: licence(name) for name in required("service-cpu.txt")}
    assert sum(found is not None for found in stated.values()) > 60
    unknown = [name for name, found in stated.items() if found == ""]
    assert not unknown, "packages that state no licence"
    assert {name for name, found in stated.items() if found and COPYLEFT.search(found)} == documented()


def test_every_package_that_the_project_names_has_a_line_on_its_purpose() -> None:
    """Those of every extra, in the first column of the page on dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {re.match(r"[A-Za-z0-9._-]+", item)[0].lower() for item in named}  # type: ignore[index]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    described = {
        name for cell in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE) for name in re.findall(r"[\w.-]+", cell)
    }
    assert names - {project["name"]} <= described


@pytest.mark.parametrize("file", sorted(path.name for path in REQUIREMENTS.glob("*.txt")))
def test_requirements_are_pinned_and_name_no_registry(file: str) -> None:
    """Whoever installs them chooses where from."""
    text = (REQUIREMENTS / file).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    lines = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert lines
    assert all("==" in line for line in lines)


@pytest.mark.parametrize("file", ["build.txt", "service-cpu.txt", "service-gpu.txt"])
def test_what_images_install_is_pinned_by_hash(file: str) -> None:
    """A registry cannot exchange a file for another of the same version."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", (REQUIREMENTS / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    missing = [block.partition(" ")[0] for block in blocks if "==" in block and "--hash=sha256:" not in block]
    assert not missing


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_sbom_names_what_a_build_installs(variant: str, tmp_path: Path) -> None:
    """In CycloneDX, with versions and hashes, by the command of `make sbom`."""
    recipe = re.search(r"^\t.*(cyclonedx-py .*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    words = recipe[1].partition(" || ")[0].replace("$$variant", variant).split()[1:]
    target = tmp_path / "sbom.json"
    words[words.index("-o") + 1] = str(target)
    subprocess.run([sys.executable, "-m", "cyclonedx_py", *words], cwd=ROOT, check=True, capture_output=True)
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["bomFormat"] == "CycloneDX"
    found = {item["name"].lower().replace("_", "-"): item["version"] for item in document["components"]}
    assert found == required(f"service-{variant}.txt")
