"""Small ONNX files as exporters write them, of every layout, type and age the converter reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENTS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def classifier(
    *,
    layout: str = "NCHW",
    batch: int | str = "batch",
    side_px: int = 24,
    opset: int = 17,
    classes: int = 3,
    element: Any = np.float32,
    ending: str = "Softmax",
    seed: int = 0,
) -> onnx.ModelProto:
    """A convolution, global pooling, a reshape and a dense layer, then `ending` (an activation, or none)."""
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "bias": rng.normal(0, 0.1, 6),
        "dense": rng.normal(0, 1.0, (6, classes)),
    }
    constants = [numpy_helper.from_array(value.astype(element), name) for name, value in weights.items()]
    first = batch if isinstance(batch, int) else 0
    constants.append(numpy_helper.from_array(np.array([first, 6], np.int64), "flat"))
    shape: list[int | str] = [batch, 3, side_px, side_px] if layout == "NCHW" else [batch, side_px, side_px, 3]
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["first"], perm=[0, 3, 1, 2])
        if layout == "NHWC"
        else helper.make_node("Identity", ["pixels"], ["first"]),
        helper.make_node("Conv", ["first", "kernel", "bias"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["vector"]),
        helper.make_node("MatMul", ["vector", "dense"], ["logits"]),
        helper.make_node(ending or "Identity", ["logits"], ["answer"]),
    ]
    output = helper.make_tensor_value_info("answer", ELEMENTS[np.dtype(element)], [batch, classes])
    return model(nodes, constants, shape, output, opset=opset, element=ELEMENTS[np.dtype(element)])


def segmenter(
    *,
    layout: str = "NCHW",
    size: Sequence[int | str] = ("h", "w"),
    channels: int = 1,
    opset: int = 17,
    seed: int = 1,
) -> onnx.ModelProto:
    """A convolution, pooling by two, nearest upsampling by two and a sigmoid: any even size."""
    rng = np.random.default_rng(seed)
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.3, (channels, 3, 3, 3)).astype(np.float32), "kernel"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
    ]
    upsampling = (
        helper.make_node("Upsample", ["low", "scales"], ["up"], mode="nearest")
        if opset < 10
        else helper.make_node("Resize", ["low", "", "scales"], ["up"], mode="nearest", nearest_mode="floor",
                              coordinate_transformation_mode="asymmetric")
    )  # fmt: skip
    to_first, to_last = [0, 3, 1, 2], [0, 2, 3, 1]
    is_last = layout == "NHWC"
    nodes = [
        *([helper.make_node("Transpose", ["pixels"], ["first"], perm=to_first)] if is_last else []),
        helper.make_node("Conv", ["first" if is_last else "pixels", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["conv"], ["low"], kernel_shape=[2, 2], strides=[2, 2]),
        upsampling,
        helper.make_node("Sigmoid", ["up"], ["map" if is_last else "answer"]),
        *([helper.make_node("Transpose", ["map"], ["answer"], perm=to_last)] if is_last else []),
    ]
    shape = ["n", *size, 3] if is_last else ["n", 3, *size]
    answer = ["n", *size, channels] if is_last else ["n", channels, *size]
    return model(
        nodes, constants, shape, helper.make_tensor_value_info("answer", TensorProto.FLOAT, answer), opset=opset
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    shape: Sequence[int | str],
    output: onnx.ValueInfoProto,
    *,
    opset: int = 17,
    element: int = TensorProto.FLOAT,
    extra_domain: str | None = None,
) -> onnx.ModelProto:
    pixels = helper.make_tensor_value_info("pixels", element, list(shape))
    domains = [helper.make_opsetid("", opset), *([helper.make_opsetid(extra_domain, 1)] if extra_domain else [])]
    graph = helper.make_graph(list(nodes), "toy", [pixels], [output], list(constants))
    return helper.make_model(graph, opset_imports=domains, ir_version=4 if opset < 11 else 8)


def save(folder: Path, made: onnx.ModelProto, name: str = "source.onnx") -> Path:
    path = folder / name
    onnx.save_model(made, path)
    return path
