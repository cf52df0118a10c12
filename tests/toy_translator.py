"""A network that draws an image for a mask."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

TRANSLATOR = "toy-translator"


def saved(nodes: list[Any], image: Any, outputs: list[Any], constants: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "toy", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tensor(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def translator() -> bytes:
    """Objects are three quarters bright, their edges a quarter; only multiples of 16 px run."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [1, 2, 1, 1], [0.75, -0.5])
    nodes = [
        helper.make_node("Conv", ["mask", "weights"], ["drawn"]),
        helper.make_node("SpaceToDepth", ["drawn"], ["deep"], blocksize=16),
        helper.make_node("DepthToSpace", ["deep"], ["image"], blocksize=16),
    ]
    return saved(nodes, tensor("mask", "N", 2, "H", "W"), [tensor("image", "N", 1, "H", "W")], [weights])


def translator_fields() -> dict[str, Any]:
    mask = {"name": "mask", "dtype": "float32", "layout": "NCHW", "shape": ["batch", 2, "height", "width"],
            "channels": ["foreground", "edges"], "range": [0, 1], "multiple_of": 16}  # fmt: skip
    image = {"name": "image", "dtype": "float32", "layout": "NCHW", "shape": ["batch", 1, "height", "width"],
             "range": [0, 1], "meaning": "intensity"}  # fmt: skip
    return {"name": TRANSLATOR, "version": 1, "task": "translate", "head": "image", "mpp": 0.5,
            "licence": "CC0-1.0", "training_data": [], "inputs": [mask], "outputs": [image]}  # fmt: skip
