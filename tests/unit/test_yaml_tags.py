"""YAML that an operator was given cannot run code: tags of Python objects are refused everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slidecascade.access.tokens import read_oidc
from slidecascade.cli import main
from slidecascade.errors import SlideCascadeError
from slidecascade.jobs.webhooks import read_webhooks
from slidecascade.models.repository import load_repository
from toy_pipeline import ToyPipeline

ROOT = Path(__file__).resolve().parents[2]
TAG = "!!python/object/apply:os.mkdir [{folder}]\n"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder that the tag makes if it is followed."""
    return tmp_path / "made"


def test_a_model_yaml_with_a_tag_runs_nothing(tmp_path: Path, made: Path) -> None:
    toy = ToyPipeline(tmp_path)
    next(toy.models_dir.glob("*/model.yaml")).write_text(TAG.format(folder=made))
    with pytest.raises(SlideCascadeError):
        load_repository(toy.models_dir)
    assert not made.exists()


def test_a_file_of_the_issuer_or_of_targets_with_a_tag_runs_nothing(tmp_path: Path, made: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(TAG.format(folder=made))
    for read in (read_oidc, read_webhooks):
        with pytest.raises(SlideCascadeError):
            read(file)
    assert not made.exists()


def test_a_pipeline_with_a_tag_runs_nothing(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToyPipeline(tmp_path)
    (toy.pipelines_dir / "bad.yaml").write_text(TAG.format(folder=made))
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(toy.pipelines_dir))
    assert main(["try", "--models", str(toy.models_dir), "toy", str(tmp_path / "no.png")]) != 0
    assert not made.exists()


def test_only_the_safe_loader_is_used() -> None:
    """In all packages."""
    for folder in ("service", "clients", "converters", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"yaml\.(load|unsafe_load|full_load|load_all)\(|pickle\.loads?\(", text), path


@pytest.mark.parametrize("read", [read_oidc, read_webhooks])
def test_aliases_that_multiply_are_refused_with_a_short_sentence(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    """Ten levels of ten aliases stand for 10^10 words, which neither memory nor the message ever holds."""
    levels = "".join(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 11))
    file = tmp_path / "file.yaml"
    file.write_text(f"l0: &l0 word\n{levels}issuer: *l10\ntargets: *l10\n")
    with pytest.raises(SlideCascadeError) as caught:
        read(file)
    assert len(str(caught.value)) < 500
