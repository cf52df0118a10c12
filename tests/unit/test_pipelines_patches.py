"""Pipelines of patches and areas: networks that do not fit or have many classes, slides without tissue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import toy_kinds
import toy_models
from slidecascade.errors import ModelPackageError, PipelineSpecError
from slidecascade.geometry import Box
from slidecascade.kinds.table import KINDS
from slidecascade.models.repository import load_repository
from slidecascade.outputs.encoders import Drawing
from slidecascade.patches.result import PatchesResult
from slidecascade.pipelines.load import load_pipelines

MANY = 300


def many_classes_classifier(side_px: int) -> bytes:
    """Softmax over `MANY` classes; the brightest of them is the one whose number is nearest to the mean grey."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Sub", ["flat", "numbers"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("Mul", ["far", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "many",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", side_px, side_px, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", MANY])],
        [
            numpy_helper.from_array(np.arange(MANY, dtype=np.float32)[None], "numbers"),
            numpy_helper.from_array(np.float32(-2.0), "scale"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy_kinds.write_models(tmp_path_factory.mktemp("models"))
    fields = toy_models.classifier_fields(
        "toy-many",
        44,
        mpp=0.5,
        crop={"size_px": 44},
        classes=[{"name": f"Class {number}", "color": [number % 256, 80, 120]} for number in range(MANY)],
        outputs=[toy_models.probabilities_fields(MANY)],
    )
    fields["outputs"][0]["channels"] = [f"Class {number}" for number in range(MANY)]
    toy_models.write_package(folder, fields, many_classes_classifier(44))
    toy_models.write_package(folder, toy_models.segmenter_fields("toy-objects"), toy_models.darkness_segmenter())
    return folder


def load(folder: Path, models: Path, fields: dict[str, Any]) -> Any:
    files = toy_kinds.write_pipelines(folder / "pipelines", fields)
    return load_pipelines(load_repository(models), files, [kind.file for kind in KINDS.values()])


def test_three_hundred_classes_are_looked_for_on_a_lattice(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each square has the class of its grey; all files hold all classes and can be read."""
    named = [f"Class {number}" for number in range(MANY)]
    fields = toy_kinds.PATCHES | {
        "classifier": "toy-many",
        "outlines": named,
        "heatmaps": [{"name": "first", "title": "First", "class": "Class 100"}],
    }
    monkeypatch.setattr(toy_kinds, "PATCHES", fields)
    monkeypatch.setattr(toy_kinds, "write_models", lambda *_args, **_more: models)
    toy = toy_kinds.ToyKinds(tmp_path)
    image = np.full((176, 176, 3), 100, np.uint8)
    image[:, 88:] = 200
    result = toy.run("toy-patches", image)
    assert isinstance(result, PatchesResult)
    assert result.probabilities.shape[2] == MANY
    assert result.counts["Class 100"] > 20
    assert result.counts["Class 200"] > 20

    encoders = KINDS["patches"].encoders
    files = encoders.files(result, lambda _side: (image, 1.0), Drawing())
    small = dict(files.small)
    summary = json.loads(small["summary.json"])
    assert len(summary["counts"]) == MANY
    assert cv2.imdecode(np.frombuffer(small["figures/overlay.png"], np.uint8), 1) is not None
    assert b"Class 200" in small["grid.csv"]
    assert json.loads(b"".join(files.large))["features"]


def test_a_slide_without_tissue_has_no_patches(tmp_path: Path) -> None:
    """Nothing is counted, the map is blank, no number is NaN in JSON, and every file is written."""
    image = np.full((200, 240, 3), 255, np.uint8)
    result = toy_kinds.ToyKinds(tmp_path).run("toy-patches", image)
    assert isinstance(result, PatchesResult)
    files = KINDS["patches"].encoders.files(result, lambda _side: (image, 1.0), Drawing())
    small = dict(files.small)
    summary = json.loads(small["summary.json"])
    assert summary["counts"] == {"Dark": 0}
    assert "NaN" not in small["summary.json"].decode()
    assert np.isnan(result.probabilities).all()
    assert [(item["code"], "no tissue" in item["message"]) for item in summary["warnings"]] == [
        ("nothing-analysed", True)
    ]
    assert json.loads(b"".join(files.large))["features"] == []
    assert {"grid.csv", "overlay.png", "figures/overlay.png"} <= small.keys()


def test_a_region_without_a_square_says_so(tmp_path: Path) -> None:
    """It holds tissue, but the middle of no square; beside the middle there is nothing to warn of."""
    toy = toy_kinds.ToyKinds(tmp_path)
    image = np.full((200, 240, 3), toy_kinds.TISSUE, np.uint8)
    (warning,) = toy.run("toy-patches", image, region_l0=Box(0, 0, 1, 1)).warnings
    assert warning.code == "nothing-analysed"
    assert "middle of no square" in warning.message
    assert toy.run("toy-patches", image).warnings == ()


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        (toy_kinds.PATCHES | {"classifier": "toy-objects"}, "'toy-objects' is not a classifier"),
        (toy_kinds.AREAS | {"segmenter": "toy-dark"}, "'toy-dark' is not a segmenter"),
        (toy_kinds.AREAS | {"segmenter": "toy-objects"}, "of 'toy-objects' makes no mask"),
        (toy_kinds.PATCHES | {"outlines": ["Bright"]}, "Bright"),
        (toy_kinds.PATCHES | {"patch": {"stride_px": 48, "context_px": 44}}, "use a smaller stride"),
        (toy_kinds.PATCHES | {"patch": {"stride_px": 12}}, "stride_px"),
        (toy_kinds.AREAS | {"heatmaps": [{"name": "x", "title": "X", "class": "Blue"}]}, "Blue"),
    ],
)
def test_a_network_that_does_not_fit_is_one_sentence(
    models: Path, tmp_path: Path, fields: dict[str, Any], reported: str
) -> None:
    """It names the pipeline or its file, and what does not fit."""
    with pytest.raises(PipelineSpecError, match=reported) as caught:
        load(tmp_path, models, fields)
    assert "toy-" in caught.value.detail


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"head": "classes"}, "head is not one for this task"),
        (
            {"outputs": [toy_models.probabilities_fields(1) | {"name": "scores"}]},
            "needs an output 'probabilities'",
        ),
        ({"outputs": [toy_models.probabilities_fields(2)]}, "sigmoid head needs 'probabilities'"),
    ],
)
def test_a_network_of_the_wrong_output_is_refused_when_it_is_loaded(
    tmp_path: Path, change: dict[str, Any], reported: str
) -> None:
    """Before any slide is read."""
    stated: dict[str, Any] = {
        "head": "sigmoid",
        "crop": {"size_px": 44},
        "classes": [{"name": "Dark", "color": [0, 0, 0]}],
    }
    fields = toy_models.classifier_fields("toy-dark", 44, **stated | change)
    toy_models.write_package(tmp_path, fields, toy_models.brightness_classifier(44))
    with pytest.raises(ModelPackageError, match=reported):
        load_repository(tmp_path)
