"""Model packages of a few hundred bytes, whose outputs can be computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
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


def brightness_segmenter() -> bytes:
    """Both maps are the only channel: bright pixels are cells."""
    nodes = [helper.make_node("Concat", ["image", "image"], ["maps"], axis=3)]
    output = helper.make_tensor_value_info("maps", TensorProto.UINT8, ["N", "H", "W", 2])
    return _graph(nodes, [], output, ["N", "H", "W", 1])


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


def color_mask_segmenter(count: int) -> bytes:
    """A map for each of the first `count` colours: four times what it has more than the mean of all, 0 to 255."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "channels"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["float", "mean"], ["above"]),
        helper.make_node("Mul", ["above", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["clipped"]),
        helper.make_node("Slice", ["clipped", "first", "end", "channels"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["maps"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("channels", TensorProto.INT64, [1], [3]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [4.0]),
        helper.make_tensor("low", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("high", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("end", TensorProto.INT64, [1], [count]),
    ]
    output = helper.make_tensor_value_info("maps", TensorProto.UINT8, ["N", "H", "W", count])
    return _graph(nodes, constants, output, ["N", "H", "W", 3])


def brightness_classifier(side_px: int) -> bytes:
    """One class: a tenth of how far the mean of all colours lies below 128, through a sigmoid."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=1),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Sub", ["middle", "flat"], ["dark"]),
        helper.make_node("Mul", ["dark", "scale"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probabilities"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("middle", TensorProto.FLOAT, [], [128.0]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 1])
    return _graph(nodes, constants, output, ["N", side_px, side_px, 3])


def stain_segmenter() -> bytes:
    """Two inputs and two outputs, of four types; see `stain_outputs` for what it computes."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["gain", "pixels"], ["gains"]),
        helper.make_node("Mul", ["float", "gains"], ["weighted"]),
        helper.make_node("ReduceMean", ["weighted", "channels"], ["mean"], keepdims=1),
        helper.make_node("Div", ["mean", "levels"], ["grey"]),
        helper.make_node("Cast", ["grey"], ["maps"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["mean"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["first"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["small"], ["brightness"], perm=[0, 2, 3, 1]),
    ]
    constants = [
        helper.make_tensor("pixels", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("channels", TensorProto.INT64, [1], [3]),
        helper.make_tensor("levels", TensorProto.FLOAT, [], [256.0]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT16, ["N", "H", "W", 4]),
        helper.make_tensor_value_info("gain", TensorProto.FLOAT, ["N", 4]),
    ]
    outputs = [
        helper.make_tensor_value_info("maps", TensorProto.UINT8, ["N", "H", "W", 1]),
        helper.make_tensor_value_info("brightness", TensorProto.FLOAT, ["N", "H2", "W2", 1]),
    ]
    return _saved(helper.make_graph(nodes, "toy", inputs, outputs, constants))


def stain_outputs(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What `stain_segmenter` returns: the mean of the weighted channels, as grey levels and in squares of 2 px."""
    weighted = inputs["image"].astype(np.float32) * inputs["gain"][:, None, None, :]
    mean = weighted.mean(axis=3, keepdims=True)
    count, height, width, _ = mean.shape
    squares = mean.reshape(count, height // 2, 2, width // 2, 2, 1)
    return {"maps": (mean / 256).astype(np.uint8), "brightness": squares.mean(axis=(2, 4))}


def stain_inputs(seed: int, count: int, height_px: int, width_px: int) -> dict[str, NDArray[Any]]:
    """Inputs of `stain_segmenter` whose outputs are exact in float32."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 1 << 12, (count, height_px, width_px, 4), np.uint16) << 4,
        "gain": rng.choice(np.array([0.25, 0.5, 1.0], np.float32), (count, 4)),
    }


def _graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    output: onnx.ValueInfoProto,
    input_shape: Sequence[str | int],
) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, input_shape)
    return _saved(helper.make_graph(nodes, "toy", [image], [output], constants))


def _saved(graph: onnx.GraphProto) -> bytes:
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
        "inputs": [image_fields("height", "width") | {"multiple_of": 8}],
        "outputs": [maps_fields("foreground", "interior")],
        "halo_px": 64,
        "classes": [{"name": "Nucleus", "color": [0, 158, 115]}],
        "options": {"foreground": 0.5, "seed": 0.5, "min_area_um2": 4.0},
        "licence": "Apache-2.0",
        "training_data": [],
    }
    return fields | changes


def stain_fields(name: str = "toy-stain", **changes: Any) -> dict[str, Any]:
    """``model.yaml`` of `stain_segmenter`."""
    stains = ["nuclear", "membrane", "cytoplasm", "autofluorescence"]
    image = image_fields("height", "width") | {"dtype": "uint16", "range": [0, 65535], "multiple_of": 4}
    gain = {"name": "gain", "dtype": "float32", "layout": "NC", "shape": ["batch", 4], "channels": stains}
    brightness = {
        "name": "brightness",
        "dtype": "float32",
        "layout": "NHWC",
        "shape": ["batch", "height", "width", 1],
        "stride": 2,
        "meaning": "intensity",
    }
    fields = {
        "head": "semantic",
        "inputs": [image | {"shape": ["batch", "height", "width", 4], "channels": stains}, gain],
        "outputs": [maps_fields("foreground"), brightness],
        "options": {"foreground": 0.5, "min_area_um2": 4.0},
    }
    return segmenter_fields(name, **fields) | changes


def image_fields(height: int | str, width: int | str) -> dict[str, Any]:
    return {
        "name": "image",
        "dtype": "uint8",
        "layout": "NHWC",
        "shape": ["batch", height, width, 3],
        "channels": ["red", "green", "blue"],
        "range": [0, 255],
    }


def maps_fields(*channels: str) -> dict[str, Any]:
    return {
        "name": "maps",
        "dtype": "uint8",
        "layout": "NHWC",
        "shape": ["batch", "height", "width", len(channels)],
        "channels": list(channels),
        "meaning": "probability",
    }


def probabilities_fields(count: int) -> dict[str, Any]:
    return {
        "name": "probabilities",
        "dtype": "float32",
        "layout": "NC",
        "shape": ["batch", count],
        "meaning": "probability",
    }


def classifier_fields(name: str = "toy-classifier", side_px: int = 72, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": name,
        "version": 1,
        "task": "classify",
        "head": "softmax",
        "mpp": 0.25,
        "inputs": [image_fields(side_px, side_px)],
        "crop": {"size_px": 54},
        "classes": [
            {"name": "Red", "color": [213, 94, 0]},
            {"name": "Green", "color": [0, 158, 115]},
            {"name": "Blue", "color": [0, 114, 178]},
        ],
        "licence": "Apache-2.0",
        "training_data": [],
    } | changes
    return {"outputs": [probabilities_fields(len(fields["classes"]))]} | fields


def write_package(models_dir: Path, fields: dict[str, Any], graph: bytes) -> Path:
    """A package as written by hand; returns its folder."""
    folder = models_dir / str(fields["name"])
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(graph)
    stated = {"sha256": hashlib.sha256(graph).hexdigest()} | fields
    (folder / "model.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    return folder
