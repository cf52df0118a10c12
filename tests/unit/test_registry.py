"""A model package is served as promised or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import toy_models
from slidecascade.errors import ModelFailedError, ModelPackageError, SettingsError
from slidecascade.models.graph import has_external_data
from slidecascade.models.repository import load_package, load_repository
from slidecascade.runners.local import LocalRunner, Placement
from slidecascade.settings import bundled_models_dir


def _package(models_dir: Path, **changes: Any) -> Path:
    return toy_models.write_package(
        models_dir, toy_models.segmenter_fields(**changes), toy_models.darkness_segmenter()
    )


def test_a_good_package_is_loaded_and_run(tmp_path: Path) -> None:
    """Maps are returned as the graph computes them."""
    _package(tmp_path)
    packages = load_repository(tmp_path)
    runner = LocalRunner(packages.values())

    maps = runner.run("toy-segmenter", {"image": np.full((2, 16, 24, 3), 55, np.uint8)})["maps"]

    assert maps.shape == (2, 16, 24, 2)
    assert (maps == 200).all()


def test_folders_without_a_model_yaml_are_left_alone(tmp_path: Path) -> None:
    """Other tools' folders in a model repository do not stop the service."""
    _package(tmp_path)
    (tmp_path / "notes").mkdir()
    assert list(load_repository(tmp_path)) == ["toy-segmenter"]


def test_a_changed_graph_is_refused_by_name(tmp_path: Path) -> None:
    """A sha256 that differs from model.yaml names the model."""
    folder = _package(tmp_path)
    graph = folder / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    with pytest.raises(ModelPackageError, match=r"'toy-segmenter'.*sha256"):
        load_package(folder)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"mpp": 0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"task": "detect"}, "task|tag"),
        ({"head": "stardist"}, "head"),
        ({"halo_px": None}, "halo_px"),
        ({"classes": []}, "classes"),
        ({"classes": [{"name": "A: B", "color": [0, 0, 0]}]}, "classes"),
        ({"classes": [{"name": "A", "color": [0, 0, 256]}]}, "classes"),
        ({"sha256": "abc"}, "sha256"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_model_yaml_names_its_field(tmp_path: Path, changes: dict[str, Any], reported: str) -> None:
    """The message names the model and the field."""
    folder = _package(tmp_path, **changes)
    with pytest.raises(ModelPackageError, match=f"'toy-segmenter'.*({reported})"):
        load_package(folder)


@pytest.mark.parametrize(
    "options", [{"floor": 1.0}, {"floor": -0.1}, {"floor": float("nan")}, {"foreground": 0.5}]
)
def test_a_classifiers_wrong_floor_is_refused(tmp_path: Path, options: dict[str, float]) -> None:
    """A floor lies in [0, 1), and a classifier has no other option."""
    fields = toy_models.classifier_fields(options=options)
    folder = toy_models.write_package(tmp_path, fields, toy_models.redness_classifier(72))
    with pytest.raises(ModelPackageError, match=r"'toy-classifier'.*options"):
        load_package(folder)


def test_a_missing_graph_and_broken_yaml_are_refused(tmp_path: Path) -> None:
    """An incomplete package is reported in one sentence."""
    folder = _package(tmp_path)
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(ModelPackageError, match=r"no 1/model\.onnx"):
        load_package(folder)
    (folder / "model.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(ModelPackageError, match="no readable"):
        load_package(folder)


def test_a_name_that_differs_from_the_folder_is_refused(tmp_path: Path) -> None:
    """One model, one name."""
    folder = _package(tmp_path)
    with pytest.raises(ModelPackageError, match="use the same name"):
        load_package(folder.rename(tmp_path / "other"))


def test_shapes_that_contradict_model_yaml_are_refused(tmp_path: Path) -> None:
    """Three outputs for two classes would misname every cell."""
    fields = toy_models.classifier_fields(classes=toy_models.classifier_fields()["classes"][:2])
    toy_models.write_package(tmp_path, fields, toy_models.redness_classifier(72))
    with pytest.raises(
        ModelPackageError, match=r"'toy-classifier' returns 'probabilities' as tensor\(float\) \('N', 3\)"
    ):
        LocalRunner(load_repository(tmp_path).values())


def test_an_input_size_that_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    """A graph for 96 px does not run at 72 px."""
    toy_models.write_package(tmp_path, toy_models.classifier_fields(), toy_models.redness_classifier(96))
    with pytest.raises(ModelPackageError, match=r"takes 'image' as tensor\(uint8\) \('N', 96, 96, 3\)"):
        LocalRunner(load_repository(tmp_path).values())


def test_bytes_that_are_not_a_graph_are_rejected(tmp_path: Path) -> None:
    """A file of another format is reported."""
    toy_models.write_package(tmp_path, toy_models.segmenter_fields(), b"not a model")
    with pytest.raises(ModelPackageError, match="'toy-segmenter' is not an ONNX graph"):
        load_repository(tmp_path)


def test_a_graph_onnx_runtime_cannot_build_is_refused_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library's reason is in the error; nothing of it is written to stderr."""
    graph = toy_models.darkness_segmenter().replace(b"ReduceMean", b"ReduceMuch")
    toy_models.write_package(tmp_path, toy_models.segmenter_fields(), graph)
    packages = load_repository(tmp_path)
    with pytest.raises(ModelPackageError, match="cannot be loaded by ONNX Runtime"):
        LocalRunner(packages.values())
    assert capfd.readouterr() == ("", "")


def _with_weights_outside(graph: bytes, name: str) -> bytes:
    """The graph with its float constant moved to the file `name`."""
    model = onnx.load_from_string(graph)
    tensor = next(item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT)
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return bytes(model.SerializeToString())


def test_weights_in_another_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime takes a file of that name from the working directory, so the package is refused before."""
    (tmp_path / "w.bin").write_bytes(np.array([255.0], np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    graph = _with_weights_outside(toy_models.darkness_segmenter(), "w.bin")
    toy_models.write_package(tmp_path / "models", toy_models.segmenter_fields(), graph)
    with pytest.raises(ModelPackageError, match="'toy-segmenter' keeps weights outside"):
        load_repository(tmp_path / "models")


@pytest.mark.parametrize("place", ["constant", "branch", "sparse", "function"])
def test_weights_outside_are_found_wherever_they_hide(place: str) -> None:
    """In a node's constant, in the branch of an If, in a sparse tensor and in a function."""
    outside = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL, name="w")
    inside = TensorProto(data_type=TensorProto.FLOAT, dims=[1], float_data=[1.0], name="w")
    assert has_external_data(_hidden(outside, place))
    assert not has_external_data(_hidden(inside, place))


def _hidden(tensor: TensorProto, place: str) -> bytes:
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    if place == "branch":
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["condition"], ["out"], then_branch=branch)
    graph = helper.make_graph([node] if place in {"constant", "branch"} else [], "main", [], [])
    if place == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    model = helper.make_model(graph)
    if place == "function":
        model.functions.add(name="f", domain="d").node.append(node)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("graph", [b"\x3a\xff\xff\xff\xff\x0f", b"\x08", b"\x00\x00", b"\x0b", b"\0\0\0\0ORTM"])
def test_bytes_of_another_format_are_not_a_graph(graph: bytes) -> None:
    """A length beyond the end, half a number, field 0, a group, and ONNX Runtime's own format."""
    with pytest.raises(ValueError, match=r"byte|format"):
        has_external_data(graph)


def test_bundled_graphs_are_whole() -> None:
    """The models of this repository are read to their end."""
    assert all(not has_external_data(package.read()) for package in load_repository(bundled_models_dir()).values())


def test_a_gpu_is_asked_for_with_its_libraries_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """CUDA from Python packages is loaded before the first session; without a GPU the error is one sentence."""
    asked: list[str] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: asked.append("cuda"))
    _package(tmp_path)
    packages = load_repository(tmp_path)
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("This ONNX Runtime is the one for GPUs.")
    with pytest.raises(SettingsError, match="no usable"):
        LocalRunner(packages.values(), placement=Placement(device="cuda"))
    assert asked == ["cuda"]
    assert capfd.readouterr() == ("", "")


def test_a_failing_run_is_an_error_with_a_name(tmp_path: Path) -> None:
    """Images the network does not take end in ModelFailedError, not in a library's exception."""
    toy_models.write_package(tmp_path, toy_models.classifier_fields(), toy_models.redness_classifier(72))
    runner = LocalRunner(load_repository(tmp_path).values())
    with pytest.raises(ModelFailedError, match=r"'toy-classifier'.*'image' has shape \(1, 10, 10, 3\)"):
        runner.run("toy-classifier", {"image": np.zeros((1, 10, 10, 3), np.uint8)})


def test_no_models_folder_is_one_sentence(tmp_path: Path) -> None:
    """A wrong path says what to set."""
    with pytest.raises(ModelPackageError, match="--models"):
        load_repository(tmp_path / "absent")
