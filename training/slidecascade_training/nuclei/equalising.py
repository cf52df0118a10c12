"""Even ranges of channels, so that one int8 scale serves all channels of a tensor.

After a ReLU a channel may be divided by any positive factor if the weights that read it are multiplied by it. The
factor is the geometric mean of what evens out activations and what evens out weights: cross-layer equalization
(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction") with the balance of
SmoothQuant (Xiao et al. 2023) at one half.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade_convert.sessions import open_session

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float32]

_BLOCK_AREA: Final = 4
"""Channels that `DepthToSpace` with blocks of 2 x 2 makes one of."""

_MAX_FACTOR: Final = 64.0


class Graph:
    """Nodes of a graph by the tensors they make and read, and its weights, which can be scaled."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._weights = {item.name: item for item in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[tuple[Any, int]]] = defaultdict(list)
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                self._readers[name].append((node, place))

    def activations(self) -> dict[str, Any]:
        """The tensors that a ReLU makes of a convolution's output, and that convolution."""
        relus = (node for node in self._makers.values() if node.op_type == "Relu")
        makers = {node.output[0]: self._makers.get(node.input[0]) for node in relus}
        return {name: maker for name, maker in makers.items() if maker is not None and maker.op_type == "Conv"}

    def weight(self, name: str) -> Floats:
        from onnx import numpy_helper

        return np.array(numpy_helper.to_array(self._weights[name]), np.float32)

    def set_weight(self, name: str, values: Floats) -> None:
        from onnx import numpy_helper

        self._weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    def readers(self, tensor: str, first_channel: int = 0) -> list[tuple[Any, int]]:
        """The convolutions that read `tensor`, and at which input channel its first one is.

        Raises:
            ValueError: something else reads it.
        """
        found: list[tuple[Any, int]] = []
        for node, place in self._readers[tensor]:
            if node.op_type == "Conv":
                found.append((node, first_channel))
            elif node.op_type == "MaxPool":
                found += self.readers(node.output[0], first_channel)
            elif node.op_type == "Concat":
                before = sum(self._channels(name) for name in node.input[:place])
                found += self.readers(node.output[0], first_channel + before)
            else:
                raise ValueError(f"{node.op_type} reads {tensor}: only Conv, MaxPool and Concat may.")
        return found

    def _channels(self, tensor: str) -> int:
        node = self._makers[tensor]
        if node.op_type == "Conv":
            return len(self.weight(node.input[1]))
        blocks = _BLOCK_AREA if node.op_type == "DepthToSpace" else 1
        return self._channels(node.input[0]) // blocks


def equalise(model: onnx.ModelProto, images: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Scale the weights of `model`, whose outputs stay what they are up to rounding.

    Args:
        model: convolutions with biases and ReLUs in them, batch normalisations folded.
        images: ``(1, H, W, 3)`` uint8, from which the ranges of channels are taken.
    """
    graph = Graph(model)
    convolutions = graph.activations()
    for tensor, range_ in _ranges(model, tuple(convolutions), images).items():
        _equalise_one(graph, convolutions[tensor], graph.readers(tensor), range_)


def _equalise_one(graph: Graph, maker: Any, readers: Sequence[tuple[Any, int]], range_: Floats) -> None:
    channels = len(range_)
    parts = [graph.weight(node.input[1])[:, at : at + channels] for node, at in readers]
    weights = np.max([np.abs(part).max(axis=(0, 2, 3)) for part in parts], axis=0)
    factors = np.sqrt(np.maximum(range_, 1e-4) / np.maximum(weights, 1e-6))
    factors /= np.exp(np.log(factors).mean())
    factors = np.clip(factors, 1 / _MAX_FACTOR, _MAX_FACTOR).astype(np.float32)
    for name in maker.input[1:]:
        values = graph.weight(name)
        graph.set_weight(name, values / factors.reshape(-1, *[1] * (values.ndim - 1)))
    for node, at in readers:
        values = graph.weight(node.input[1])
        values[:, at : at + channels] *= factors[None, :, None, None]
        graph.set_weight(node.input[1], values)


def _ranges(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[npt.NDArray[np.uint8]]
) -> Mapping[str, Floats]:
    """The largest value of each channel of `tensors` over `images`."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for name in tensors:
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(shown)
    found: dict[str, Floats] = {}
    for image in images:
        for name, values in zip(tensors, session.run(list(tensors), {"image": image}), strict=True):
            found[name] = np.maximum(found.get(name, np.float32(0)), values.max(axis=(0, 2, 3)))
    return found
