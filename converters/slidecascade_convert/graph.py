"""From an exported network to the graph that is served: uint8 RGB in, the head's output out.

A served graph takes ``image``, uint8 RGB ``(N, H, W, 3)``. A segmenter's ``maps`` are uint8 ``(N, H, W, C)``,
``round(255 * p)`` of foreground and, for the head unet, interior; a classifier's ``probabilities`` are float32
``(N, C)``. Before rounding, the maps are the tensor `PROBABILITY_MAPS`, which the comparison with the original
reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from slidecascade.errors import ConversionError
from slidecascade_convert.nodes import Nodes
from slidecascade_convert.original import GREY_HALF, GREY_UNIT, GREY_WEIGHTS, Facts
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.sessions import first_line
from slidecascade_convert.windows import Windows, one_by_one

if TYPE_CHECKING:
    import onnx

PROBABILITY_MAPS = "probability_maps"
OUTPUTS = {"segment": "maps", "classify": "probabilities"}
_PREFIX = "network/"

_MIN_IR_VERSION = 8


def serve(
    raw: onnx.ModelProto, facts: Facts, request: ConversionRequest, channels: Sequence[int]
) -> onnx.ModelProto:
    """The served graph of an exported network, changed in place: copies of its weights would take memory.

    Args:
        raw: the network: one rank-4 image input of ``facts.layout``, one output. Its weights are those of the
            result; use the result alone afterwards.
        facts: what its original states.
        request: normalisation, head, classes.
        channels: the network's output channels that are served, from `slidecascade_convert.heads`.

    Raises:
        ConversionError: the graph is not valid ONNX, or its output cannot be the head's.
    """
    from onnx import checker, compose, helper

    model = compose.add_prefix(raw, _PREFIX, inplace=True)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    (old_input,) = (value for value in graph.input if value.name not in weights)
    (old_output,) = graph.output
    before, after = Nodes(), Nodes()
    windows = windows_of(facts, request)
    _normalise(before, request, facts, old_input, windows)
    value = _finish(after, request, facts, old_output.name, channels, windows)
    height, width = (None, None) if request.task == "segment" else (request.input_px,) * 2
    inner = list(graph.node)
    if facts.batch == 1:
        inner = [one_by_one(graph, old_input, old_output, old_input.type.tensor_type.elem_type)]
    image = helper.make_tensor_value_info("image", 2, ["N", height or "H", width or "W", 3])
    found = _output_info(request, height or "H", width or "W", value)
    around = helper.make_graph(
        [*before.made, *inner, *after.made], request.name, [image], [found], [*before.constants, *after.constants]
    )
    _bare(model)
    graph.MergeFrom(around)
    model.ir_version = max(model.ir_version, _MIN_IR_VERSION)
    model.producer_name = "slidecascade"
    try:
        checker.check_model(model)
    except (checker.ValidationError, ValueError) as error:
        raise ConversionError(f"The graph is not valid ONNX: export it anew. ({first_line(error)})") from error
    return model


def describe(model: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    """Write `properties` into the file's metadata."""
    from onnx import helper

    helper.set_model_props(model, dict(properties))


@contextmanager
def with_output(model: onnx.ModelProto, name: str, channels: int) -> Iterator[onnx.ModelProto]:
    """`model` itself, which in the block also returns the inner float32 tensor `name`, ``(N, H, W, channels)``."""
    from onnx import helper

    model.graph.output.append(helper.make_tensor_value_info(name, 1, ["N", None, None, channels]))
    try:
        yield model
    finally:
        del model.graph.output[-1]


def _bare(model: onnx.ModelProto) -> None:
    """Leave nothing of `model` but its weights, its functions and the versions of its operators."""
    graph = model.graph
    for field in (
        "node",
        "input",
        "output",
        "value_info",
        "quantization_annotation",
        "metadata_props",
        "doc_string",
    ):
        graph.ClearField(field)
    for field in ("producer_name", "producer_version", "domain", "model_version", "metadata_props", "doc_string"):
        model.ClearField(field)


def windows_of(facts: Facts, request: ConversionRequest) -> Windows | None:
    """The windows that a segmenter of one size is run on; None where any size will do."""
    if request.task != "segment" or facts.height_px is None or facts.width_px is None:
        return None
    return Windows(facts.height_px, facts.width_px)


def _normalise(
    nodes: Nodes, request: ConversionRequest, facts: Facts, old_input: Any, windows: Windows | None
) -> None:
    """From `image` to the network's own input."""
    value = "image"
    if windows is not None:
        value = windows.cut(nodes, value)
    if request.bgr:
        value = nodes.add("Gather", [value, nodes.constant("blue_green_red", [2, 1, 0])], "image_bgr", axis=3)
    if facts.is_grey:
        value = _grey(nodes, value, as_bytes=facts.takes_bytes)
    if not facts.takes_bytes:
        value = nodes.add("Cast", [value], "image_float", to=1)
        if not request.normalisation.is_identity:
            count = 1 if facts.is_grey else 3
            factor = nodes.constant("pixel_factor", np.array(request.normalisation.factor[:count], np.float32))
            offset = nodes.constant("pixel_offset", np.array(request.normalisation.offset[:count], np.float32))
            value = nodes.add("Mul", [value, factor], "image_scaled")
            value = nodes.add("Add", [value, offset], "image_normalised")
        element = old_input.type.tensor_type.elem_type
        if element != 1:
            value = nodes.add("Cast", [value], "image_cast", to=element)
    if facts.layout == "NCHW":
        nodes.add("Transpose", [value], old_input.name, perm=[0, 3, 1, 2])
    else:
        nodes.add("Identity", [value], old_input.name)


def _grey(nodes: Nodes, value: str, *, as_bytes: bool) -> str:
    """One channel of whole grey levels, from three."""
    value = nodes.add("Cast", [value], "image_colours", to=1)
    value = nodes.add(
        "Mul", [value, nodes.constant("grey_weights", np.array(GREY_WEIGHTS, np.float32))], "image_weighted"
    )
    value = nodes.add("ReduceSum", [value, nodes.ints("colour_axis", [3])], "image_sum", keepdims=1)
    value = nodes.add("Add", [value, nodes.constant("grey_half", np.float32(GREY_HALF))], "image_half_up")
    value = nodes.add("Mul", [value, nodes.constant("grey_unit", np.float32(1 / GREY_UNIT))], "image_luma")
    value = nodes.add("Floor", [value], "image_grey")
    return nodes.add("Cast", [value], "image_grey_bytes", to=2) if as_bytes else value


def _finish(
    nodes: Nodes,
    request: ConversionRequest,
    facts: Facts,
    value: str,
    channels: Sequence[int],
    windows: Windows | None,
) -> str:
    """From the network's output to the head's; the name of the served tensor."""
    value = nodes.add("Cast", [value], "output_float", to=1)
    if facts.answers_bytes:
        value = nodes.add("Div", [value, nodes.constant("byte_range", np.float32(255))], "output_probability")
    if request.task == "segment":
        return _maps(nodes, request, facts, value, channels, windows)
    # Classifiers that pool to one pixel but never flatten have (N, 1, 1, C) or (N, C, 1, 1).
    value = nodes.add("Flatten", [value], "flattened", axis=1)
    if request.logits:
        kind = {"softmax": "Softmax", "sigmoid": "Sigmoid"}[request.head]
        value = nodes.add(kind, [value], "activated", **({"axis": -1} if kind == "Softmax" else {}))
    if len(channels) == 1:
        # One unit is the probability of the second class.
        first = nodes.add("Sub", [nodes.constant("one", np.float32(1)), value], "first_class")
        return nodes.add("Concat", [first, value], OUTPUTS["classify"], axis=1)
    return nodes.add("Identity", [value], OUTPUTS["classify"])


def _maps(
    nodes: Nodes,
    request: ConversionRequest,
    facts: Facts,
    value: str,
    channels: Sequence[int],
    windows: Windows | None,
) -> str:
    if facts.layout == "NCHW":
        value = nodes.add("Transpose", [value], "output_last", perm=[0, 2, 3, 1])
    if request.logits:
        value = nodes.add("Sigmoid", [value], "activated")
    chosen = nodes.constant("map_channels", list(channels))
    if windows is None:
        value = nodes.add("Gather", [value, chosen], PROBABILITY_MAPS, axis=3)
    else:
        value = windows.join(nodes, nodes.add("Gather", [value, chosen], "window_maps", axis=3), len(channels))
        value = nodes.add("Identity", [value], PROBABILITY_MAPS)
    low, high = nodes.constant("zero", np.float32(0)), nodes.constant("one", np.float32(1))
    value = nodes.add("Clip", [value, low, high], "clipped_maps")
    value = nodes.add("Mul", [value, nodes.constant("grey_levels", np.float32(255))], "grey_maps")
    value = nodes.add("Round", [value], "whole_maps")
    return nodes.add("Cast", [value], OUTPUTS["segment"], to=2)


def _output_info(request: ConversionRequest, height: int | str, width: int | str, name: str) -> Any:
    from onnx import helper

    if request.task == "segment":
        return helper.make_tensor_value_info(name, 2, ["N", height, width, request.maps])
    return helper.make_tensor_value_info(name, 1, ["N", len(request.classes)])
