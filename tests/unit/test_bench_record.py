"""Figures of benchmarks: what they are of, and the page that is made of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks import record
from benchmarks.__main__ import ALL, OF_DATA, commands, measure
from benchmarks.page import SECTIONS, page
from benchmarks.record import RESULTS, ROOT, Provenance

from slidecascade.models.repository import load_repository
from slidecascade.settings import bundled_models_dir


def test_figures_are_written_with_their_commit_and_networks(tmp_path: Path) -> None:
    """The commit of this checkout and the sha256 of the bundled networks; a page shows their first digits."""
    record.write(tmp_path / "new" / "figures.json", {"value": 3}, Provenance.here())
    document = record.read(tmp_path / "new" / "figures.json")
    assert document is not None
    assert document["value"] == 3
    packages = load_repository(bundled_models_dir())
    assert document["provenance"]["networks"] == {name: each.spec.sha256 for name, each in packages.items()}
    text = " ".join(record.line(document, in_full=True))
    assert f"Of commit `{document['provenance']['commit']}`" in text
    for name, each in packages.items():
        assert f"{name} {each.spec.sha256[:12]}" in text
        assert each.spec.sha256 not in text


def test_a_page_lists_each_set_of_networks_once(tmp_path: Path) -> None:
    """Sections name a set; the table at the end has a column for each set that is named, and none for others."""
    here = Provenance.here()
    other = dataclasses.replace(here, networks={**here.networks, "nash-cell": "f" * 64, "new": "0" * 64})
    unnamed = dataclasses.replace(here, networks={"new": "0" * 64})
    for name, provenance in (("a", here), ("b", other), ("c", here), ("d", unnamed)):
        record.write(tmp_path / f"{name}.json", {}, provenance)
    lines = [" ".join(record.line(record.read(tmp_path / f"{name}.json") or {})) for name in "cba"]
    names = [record.set_name(provenance.networks) for provenance in (here, other)]
    assert len({*names, record.set_name(unnamed.networks)}) == 3
    assert [name in line for line, name in zip(lines, (names[0], names[1], names[0]), strict=True)] == [True] * 3
    table = record.networks_table(tmp_path, "\n".join(lines))
    assert f"| network | {names[0]} | {names[1]} |" in table
    assert f"| nash-cell | {here.networks['nash-cell'][:12]} | {'f' * 12} |" in table
    assert f"| new | - | {'0' * 12} |" in table


def test_a_commit_with_changes_is_marked() -> None:
    """Figures of files that no commit holds do not pass for those of the commit."""
    provenance = Provenance.here()
    for changed in (True, False):
        document = {"provenance": dataclasses.asdict(dataclasses.replace(provenance, changed=changed))}
        assert ("with uncommitted changes" in " ".join(record.line(document))) is changed


def test_a_checkout_is_changed_by_files_that_are_not_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Figures that a run has just written do not make the next ones those of another state."""

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=Nobody", "-c", "user.email=nobody@localhost"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(record, "ROOT", tmp_path)
    git("init")
    git("commit", "--allow-empty", "-m", "Begin")
    assert Provenance.here().changed is False
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "figures.json").write_text("{}")
    assert Provenance.here().changed is False
    (tmp_path / "module.py").write_text("")
    assert Provenance.here().changed is True


def test_without_a_repository_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of the files without their history can still be measured."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert Provenance.here().commit == record.UNKNOWN


def test_figures_without_provenance_say_so() -> None:
    """Nothing is made up for what was not recorded."""
    assert "not recorded" in " ".join(record.line({}))
    later = {"commit": "abc", "changed": False, "networks": {"n": "0" * 64}, "machine": None, "noted_later": True}
    assert "the commit measured was not recorded" in " ".join(record.line({"provenance": later}))


def test_every_published_figure_has_a_provenance() -> None:
    """No file of the results is without one."""
    without = [
        path.name
        for path in sorted(RESULTS.glob("*.json"))
        if "provenance" not in json.loads(path.read_text(encoding="utf-8"))
    ]
    assert not without


def test_the_published_page_is_that_of_the_published_figures() -> None:
    """It was not edited by hand, and figures were not changed without it."""
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == page(RESULTS)


def test_a_page_without_figures_has_no_sections(tmp_path: Path) -> None:
    """What was not measured has no heading."""
    assert "##" not in page(tmp_path)


def test_each_question_has_a_section() -> None:
    """A folder for each, and none that the page leaves out."""
    folders = {path.parent.name for path in (ROOT / "benchmarks").glob("*/section.py")}
    assert {section.__module__.split(".")[1] for section in SECTIONS} == folders
    assert {name.split(".")[1] for name in (*ALL, *OF_DATA, "benchmarks.gpu")} == folders


def test_all_that_is_measured_in_one_go_is_there(tmp_path: Path) -> None:
    """Every module can be found; those that need data come with it, and only then."""
    found = commands(every=True, data=tmp_path)
    names = [name for name, *_ in found]
    assert len(names) == len(set(names))
    assert all(find_spec(name) for name in names)
    assert ["benchmarks.accuracy", "--data", str(tmp_path / "nuclei")] in found
    assert ["benchmarks.stability", "--data", str(tmp_path)] in found
    assert not set(OF_DATA) & {name for name, *_ in commands(every=True, data=None)}


def test_a_measurement_that_fails_does_not_stop_the_others() -> None:
    """The names of those that failed are returned."""
    found = measure([["benchmarks.none"], ["benchmarks.stability", "--help"], ["benchmarks.gpu", "--none"]])
    assert found == ["benchmarks.none", "benchmarks.gpu"]
