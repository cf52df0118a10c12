"""Heads of this package and of others, found by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import toy_heads
import toy_models
from slidecascade.errors import HeadPluginError, ModelPackageError
from slidecascade.heads import table
from slidecascade.heads.unet import UnetOptions
from slidecascade.models.repository import load_package, model_yaml
from slidecascade.models.spec import SegmenterSpec

SOURCE = """
import toy_heads

class _Packaged(type(toy_heads.STARS)):
    name = "packaged"

HEAD = _Packaged()
"""


def package_of(folder: Path, head: str, **options: object) -> Path:
    fields = toy_models.segmenter_fields(head=head, options=options)
    return toy_models.write_package(folder / "models", fields, toy_models.darkness_segmenter())


def test_the_options_of_a_model_are_those_of_its_head(tmp_path: Path) -> None:
    """What is not stated is the head's default, and is not written."""
    spec = load_package(package_of(tmp_path, "unet", seed=0.25)).spec
    assert isinstance(spec, SegmenterSpec)
    assert spec.options == UnetOptions(seed=0.25)
    assert spec.options.model_fields_set == {"seed"}
    assert "prominence" not in model_yaml(spec)


@pytest.mark.parametrize(
    ("head", "options", "reported"),
    [
        ("semantic", {"seed": 0.5}, "seed"),
        ("nothing", {}, "there is no head 'nothing'; there are unet, semantic"),
        ("softmax", {}, "not one for this task"),
    ],
)
def test_a_head_and_options_that_do_not_fit_are_refused(
    tmp_path: Path, head: str, options: dict[str, object], reported: str
) -> None:
    """The model, the place in its file and what there is instead are named."""
    with pytest.raises(ModelPackageError, match=f"toy-segmenter.*{reported}"):
        load_package(package_of(tmp_path, head, **options))


def test_an_installed_package_adds_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is listed, and a model with it is loaded with its options."""
    assert "toy-stars" not in table.names()
    monkeypatch.syspath_prepend(
        toy_heads.write_dist_info(tmp_path / "site", "stars", {"toy-stars": "toy_heads:STARS"})
    )
    assert table.names()[-1] == "toy-stars"
    assert table.find("toy-stars") is toy_heads.STARS
    spec = load_package(package_of(tmp_path, "toy-stars", overlap=0.25)).spec
    assert isinstance(spec, SegmenterSpec)
    assert spec.options == toy_heads.StarsOptions(overlap=0.25)


def test_a_head_is_there_once_pip_installed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with an entry point, installed into a folder of its own."""
    wheel = toy_heads.build_wheel(tmp_path, "stars-wheel", SOURCE, {"packaged": "stars_wheel:HEAD"})
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(target), str(wheel)], check=True, timeout=300)
    monkeypatch.syspath_prepend(target)
    assert load_package(package_of(tmp_path, "packaged")).spec.head == "packaged"


@pytest.mark.parametrize(
    ("packages", "reported"),
    [
        ({"one": {"unet": "toy_heads:STARS"}}, "package one provides a head 'unet'.*built in"),
        (
            {"one": {"toy-stars": "toy_heads:STARS"}, "two": {"toy-stars": "toy_heads:STARS"}},
            "one and two both provide a head 'toy-stars'",
        ),
        ({"one": {"toy-stars": "no_such_module:STARS"}}, "cannot be loaded from no_such_module:STARS"),
        ({"one": {"toy-stars": "toy_heads:NO_SUCH"}}, "cannot be loaded.*update or remove the package one"),
        ({"one": {"toy-stars": "toy_heads:NOT_A_HEAD"}}, "is not a head, but a str"),
        ({"one": {"other": "toy_heads:STARS"}}, "is a head called 'toy-stars', not 'other'"),
    ],
)
def test_a_clash_and_a_broken_package_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: dict[str, dict[str, str]], reported: str
) -> None:
    """A package that cannot be used is named with what to do, when a model asks for its head."""
    for package, heads in packages.items():
        monkeypatch.syspath_prepend(toy_heads.write_dist_info(tmp_path / package, package, heads))
    name = next(iter(packages["one"]))
    with pytest.raises(HeadPluginError, match=reported):
        load_package(package_of(tmp_path, name))


def test_a_broken_package_does_not_hinder_other_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of another package is loaded before a model wants its head."""
    monkeypatch.syspath_prepend(
        toy_heads.write_dist_info(tmp_path / "site", "one", {"broken": "no_such_module:HEAD"})
    )
    assert "broken" in table.names()
    assert load_package(package_of(tmp_path, "unet")).spec.head == "unet"
