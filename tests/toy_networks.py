"""Networks whose outputs the heads of fluorescence decode, worked out from the colours of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from benchmarks.heads import scene
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slidecascade.heads.table import find

OPSET = 18
RAYS: Final = 16
DETECTIONS: Final = 1500
MASK_PX: Final = 28
OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "stardist": {"rays": RAYS, "min_area_um2": 4.0, "foreground": 0.4},
    "flows": {"min_area_um2": 4.0},
    "mesmer": {"min_area_um2": 4.0},
    "maskrcnn": {"detections": DETECTIONS, "min_area_um2": 4.0},
    "semantic": {"output": "d0", "min_area_um2": 4.0},
}
"""Of each head, what its ``model.yaml`` states."""


class _Graph:
    """Nodes and constants; names of results are made up."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type[np.generic] | type[float] = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def channel(self, index: int, *, step: int = 1) -> str:
        """A colour of the image as float32 ``(N, H, W, 1)``, each `step` pixels."""
        cast = self.node("Cast", "image", to=TensorProto.FLOAT)
        starts, ends = ([0, 0, index], [2**30, 2**30, index + 1])
        parts = [self.constant(value, np.int64) for value in (starts, ends, [1, 2, 3], [step, step, 1])]
        return self.node("Slice", cast, *parts)

    def saved(self, head: str) -> bytes:
        outputs = [
            helper.make_tensor_value_info(
                output.name,
                helper.np_dtype_to_tensor_dtype(np.dtype(output.dtype)),
                _sizes(output.shape, output.stride),
            )
            for output in specs(head)
        ]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
        graph = helper.make_graph(self.nodes, "toy", [image], outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _sizes(shape: Sequence[int | str], stride: int) -> list[int | str]:
    names = {
        "batch": "N",
        "height": f"H{stride}" if stride > 1 else "H",
        "width": f"W{stride}" if stride > 1 else "W",
    }
    return [names.get(size, size) if isinstance(size, str) else size for size in shape]


def specs(head: str) -> Sequence[Any]:
    """The outputs that `head` wants with `OPTIONS`."""
    found = find(head)
    return found.outputs_with(("Nucleus",), found.options(**OPTIONS[head]))


def fields(head: str) -> dict[str, Any]:
    """What a ``model.yaml`` states of the network of `head`."""
    outputs = [output.model_dump(mode="json") for output in specs(head)]
    return {"head": head, "options": dict(OPTIONS[head]), "outputs": outputs, "halo_px": 32}


def stars() -> bytes:
    """Red is the probability; green an eighth of the radius, longer to the right and left."""
    graph = _Graph()
    graph.node("Mul", graph.channel(0, step=2), graph.constant(1 / 255), out="prob")
    shape = 1 + 0.3 * np.cos(np.arange(RAYS) * (4 * np.pi / RAYS))
    graph.node("Mul", graph.channel(1, step=2), graph.constant(shape / 8), out="dist")
    return graph.saved("stardist")


def flows() -> bytes:
    """Red and green are the flow down and right, 128 is none; blue above 128 is the foreground."""
    graph = _Graph()
    middle, scale = graph.constant(128.0), graph.constant(5 / 100)
    parts = [graph.node("Mul", graph.node("Sub", graph.channel(index), middle), scale) for index in range(3)]
    graph.node("Transpose", graph.node("Concat", *parts, axis=3), perm=[0, 3, 1, 2], out="flows")
    return graph.saved("flows")


def distances() -> bytes:
    """Red is the inner distance, green the interior."""
    graph = _Graph()
    scale = graph.constant(1 / 255)
    graph.node("Mul", graph.channel(0), scale, out="whole_cell_inner_distance")
    inside = graph.node("Mul", graph.channel(1), scale)
    outside = graph.node("Sub", graph.constant(1.0), inside)
    edge = graph.node("Sub", inside, inside)
    graph.node("Concat", edge, inside, outside, axis=3, out="whole_cell_pixelwise")
    return graph.saved("mesmer")


def detections() -> bytes:
    """Where red is the highest of 5 x 5 pixels there is a box; half its side is a quarter of green; masks are
    discs.
    """
    graph = _Graph()
    red = graph.node("Transpose", graph.channel(0), perm=[0, 3, 1, 2])
    highest = graph.node("MaxPool", red, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    peaks = graph.node("Mul", red, graph.node("Cast", graph.node("Equal", red, highest), to=TensorProto.FLOAT))
    flat = graph.node("Flatten", peaks)
    graph.nodes.append(
        helper.make_node("TopK", [flat, graph.constant([DETECTIONS], np.int64)], ["values", "places"], axis=1)
    )
    graph.node("Mul", "values", graph.constant(1 / 255), out="scores")
    width = graph.node("Gather", graph.node("Shape", "image"), graph.constant(2, np.int64), axis=0)
    row = graph.node("Div", "places", width)
    column = graph.node("Sub", "places", graph.node("Mul", row, width))
    x, y = (graph.node("Cast", place, to=TensorProto.FLOAT) for place in (column, row))
    sides = graph.node("Flatten", graph.node("Transpose", graph.channel(1), perm=[0, 3, 1, 2]))
    half = graph.node("Mul", graph.node("GatherElements", sides, "places", axis=1), graph.constant(0.25))
    last = graph.constant([2], np.int64)
    corners = [
        graph.node("Unsqueeze", graph.node(kind, place, half), last)
        for kind, place in (("Sub", x), ("Sub", y), ("Add", x), ("Add", y))
    ]
    graph.node("Concat", *corners, axis=2, out="boxes")
    graph.node(
        "Add", graph.node("Mul", "places", graph.constant(0, np.int64)), graph.constant(1, np.int64), out="labels"
    )
    span = np.arange(MASK_PX) + 0.5 - MASK_PX / 2
    disc = np.clip(MASK_PX / 2 - np.hypot(span, span[:, None]), 0, 1)
    zero = graph.node(
        "Unsqueeze", graph.node("Mul", "values", graph.constant(0.0)), graph.constant([2, 3], np.int64)
    )
    graph.node("Add", zero, graph.constant(disc[None, None]), out="masks")
    return graph.saved("maskrcnn")


def probabilities() -> bytes:
    """Red is the probability."""
    graph = _Graph()
    scaled = graph.node("Mul", graph.channel(0), graph.constant(1 / 255))
    graph.node("Transpose", scaled, perm=[0, 3, 1, 2], out="d0")
    return graph.saved("semantic")


NETWORKS: Final[Mapping[str, Callable[[], bytes]]] = {
    "stardist": stars,
    "flows": flows,
    "mesmer": distances,
    "maskrcnn": detections,
    "semantic": probabilities,
}


def image(head: str, seed: int, width_px: int, height_px: int, count: int) -> NDArray[np.uint8]:
    """``(H, W, 3)`` colours of which the network of `head` makes cells, many of which touch."""
    labels = scene.cells(seed, max(width_px, height_px), count, radius_px=(5, 12))[:height_px, :width_px]
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
    colours = np.zeros((*labels.shape, 3), np.float32)
    if head == "flows":
        found = scene.flow_outputs(labels, seed=seed)["flows"]
        colours = 128 + found.transpose(1, 2, 0) * 20
    else:
        maps = scene.distance_outputs(labels, seed=seed)
        colours[..., 0] = 200 * maps["whole_cell_inner_distance"][..., 0]
        colours[..., 0] += 12 * scene.noise(seed, labels.shape, 1.0) * (labels > 0)
        sizes = np.sqrt(np.bincount(labels.ravel()) / np.pi)
        sizes[0] = 2
        colours[..., 1] = 255 * maps["whole_cell_pixelwise"][..., 1]
        if head in ("stardist", "maskrcnn"):
            colours[..., 1] = (8 if head == "stardist" else 4) * sizes[labels]
    return np.clip(colours, 0, 255).astype(np.uint8)
