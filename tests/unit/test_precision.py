"""A model's int8 graph is run where it is wanted and the CPU is able to, under a sha256 of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

import toy_models
from slidecascade.cores import multiplies_int8
from slidecascade.errors import ModelPackageError, SettingsError
from slidecascade.models.repository import load_package
from slidecascade.runners import precision
from slidecascade.runners.precision import served_packages
from slidecascade.settings import Settings

NAME = "toy-segmenter"
AUTO: dict[str, object] = {"precision": "auto"}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A segmenter with a second graph, and a classifier without one."""
    fields = toy_models.segmenter_fields()
    toy_models.write_package(tmp_path, fields, toy_models.darkness_segmenter())
    toy_models.write_package(
        tmp_path, toy_models.classifier_fields("toy-classifier", 72), toy_models.redness_classifier(72)
    )
    graph = toy_models.color_mask_segmenter(2)
    (tmp_path / NAME / "1" / "int8.onnx").write_bytes(graph)
    stated = yaml.safe_load((tmp_path / NAME / "model.yaml").read_text(encoding="utf-8"))
    stated["int8"] = {"sha256": hashlib.sha256(graph).hexdigest(), "accuracy": {"ap50": 0.5}}
    (tmp_path / NAME / "model.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    return tmp_path


def chosen(models_dir: Path, *, able: bool, monkeypatch: pytest.MonkeyPatch, **settings: object) -> dict[str, str]:
    monkeypatch.setattr(precision, "multiplies_int8", lambda: able)
    packages = served_packages(Settings.model_validate({"models_dir": models_dir} | settings))
    return {name: package.onnx_path.name for name, package in packages.items()}


@pytest.mark.parametrize(
    ("settings", "able", "graph"),
    [
        ({}, True, "model.onnx"),
        (AUTO, True, "int8.onnx"),
        (AUTO, False, "model.onnx"),
        ({"precision": "int8"}, True, "int8.onnx"),
        (AUTO | {"device": "cuda"}, True, "model.onnx"),
        (AUTO | {"runner": "bento"}, True, "int8.onnx"),
        (AUTO | {"runner": "triton"}, True, "model.onnx"),
        (AUTO | {"runner_by_model": f"{NAME}=triton"}, True, "model.onnx"),
        (AUTO | {"runner": "triton", "runner_by_model": f"{NAME}=local"}, True, "int8.onnx"),
    ],
)
def test_int8_runs_on_able_cpus_of_this_machine_only(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], able: bool, graph: str
) -> None:
    """GPUs and Triton servers run float32; a model without an int8 graph is float32 everywhere."""
    found = chosen(models_dir, able=able, monkeypatch=monkeypatch, **settings)
    assert found == {NAME: graph, "toy-classifier": "model.onnx"}


@pytest.mark.parametrize(("settings", "able"), [({}, False), ({"device": "cuda"}, True)])
def test_int8_is_rejected_where_it_would_give_other_outputs(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], able: bool
) -> None:
    """Without the instructions its sums saturate."""
    with pytest.raises(SettingsError, match="needs a CPU with VNNI"):
        chosen(models_dir, able=able, monkeypatch=monkeypatch, precision="int8", **settings)


def test_the_int8_graph_is_a_model_of_its_own(models_dir: Path) -> None:
    """Answers state the sha256 of what was run, and ids are made of it."""
    package = load_package(models_dir / NAME)
    int8 = package.in_int8()
    assert hashlib.sha256(int8.read()).hexdigest() == int8.spec.sha256 != package.spec.sha256
    assert int8.spec.accuracy == {"ap50": 0.5}
    assert int8.spec.signature == package.spec.signature


def test_an_int8_graph_that_is_missing_or_changed_is_refused(models_dir: Path) -> None:
    """As the float32 one, and wherever the package is loaded."""
    graph = models_dir / NAME / "1" / "int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    with pytest.raises(ModelPackageError, match=r"the sha256 of int8\.onnx is"):
        load_package(models_dir / NAME)
    graph.unlink()
    with pytest.raises(ModelPackageError, match=r"has no 1/int8\.onnx"):
        load_package(models_dir / NAME)


@pytest.mark.parametrize(
    ("cpuinfo", "able"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags : fpu avx512f avx512_vnni\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_a_cpu_states_whether_it_multiplies_int8(tmp_path: Path, cpuinfo: str, able: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo, encoding="ascii")
    assert multiplies_int8(path) == able
    assert not multiplies_int8(tmp_path / "none")
