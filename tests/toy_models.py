"""Model packages of a few hundred bytes, whose answers can be worked out by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import yaml
from onnx import TensorProto, helper

OPSET = 18


def darkness_segmenter() -> bytes:
    """Both maps are ``255 - mean of the colour channels``: dark pixels are cells."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "channels"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["white", "mean"], ["dark"]),
        helper.make_node("Concat", ["dark", "dark"], ["both"], axis=3),
        helper.make_node("Cast", ["both"], ["maps"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("channels", TensorProto.INT64, [1], [3]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
    ]
    output = helper.make_tensor_value_info("maps", TensorProto.UINT8, ["N", "H", "W", 2])
    return _graph(nodes, constants, output, ["N", "H", "W", 3])


def redness_classifier(side_px: int) -> bytes:
    """Three classes: softmax of a twentieth of the mean red, green and blue."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "pixels"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("pixels", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.05]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    return _graph(nodes, constants, output, ["N", side_px, side_px, 3])


def fragile_classifier(side_px: int) -> bytes:
    """Three classes by mean colour over mean red: not a number where there is no red at all."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "pixels"], ["mean"], keepdims=0),
        helper.make_node("Slice", ["mean", "from", "to", "axis"], ["red"]),
        helper.make_node("Div", ["red", "red"], ["one"]),
        helper.make_node("Mul", ["mean", "one"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("pixels", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("from", TensorProto.INT64, [1], [0]),
        helper.make_tensor("to", TensorProto.INT64, [1], [1]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    return _graph(nodes, constants, output, ["N", side_px, side_px, 3])


def _graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    output: onnx.ValueInfoProto,
    input_shape: Sequence[str | int],
) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, input_shape)
    graph = helper.make_graph(nodes, "toy", [image], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def segmenter_fields(name: str = "toy-segmenter", **changes: Any) -> dict[str, Any]:
    fields = {
        "name": name,
        "version": 1,
        "task": "segment",
        "head": "unet",
        "mpp": 0.5,
        "input": {"height_px": None, "width_px": None, "multiple_of": 8},
        "halo_px": 64,
        "classes": [{"name": "Nucleus", "color": [0, 158, 115]}],
        "options": {"foreground": 0.5, "seed": 0.5, "min_area_um2": 4.0},
        "licence": "Apache-2.0",
        "training_data": [],
    }
    return fields | changes


def classifier_fields(name: str = "toy-classifier", side_px: int = 72, **changes: Any) -> dict[str, Any]:
    fields = {
        "name": name,
        "version": 1,
        "task": "classify",
        "head": "softmax",
        "mpp": 0.25,
        "input": {"height_px": side_px, "width_px": side_px, "multiple_of": 1},
        "crop": {"size_px": 54},
        "classes": [
            {"name": "Red", "color": [213, 94, 0]},
            {"name": "Green", "color": [0, 158, 115]},
            {"name": "Blue", "color": [0, 114, 178]},
        ],
        "licence": "Apache-2.0",
        "training_data": [],
    }
    return fields | changes


def write_package(models_dir: Path, fields: dict[str, Any], graph: bytes) -> Path:
    """A package as the converters write it; returns its folder."""
    folder = models_dir / str(fields["name"])
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(graph)
    stated = {"sha256": hashlib.sha256(graph).hexdigest()} | fields
    (folder / "model.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    return folder
