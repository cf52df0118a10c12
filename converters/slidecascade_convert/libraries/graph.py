"""An exported TensorFlow network under the names that its package states, perhaps on windows of its one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from slidecascade.models.tensors import OutputSpec
from slidecascade_convert.libraries.network import IMAGE
from slidecascade_convert.nodes import Nodes
from slidecascade_convert.windows import Windows

if TYPE_CHECKING:
    import onnx

_PREFIX: Final = "network/"


def with_stated_names(
    raw: onnx.ModelProto, outputs: Sequence[OutputSpec], windows: Windows | None = None
) -> onnx.ModelProto:
    """`raw`, of one input and as many outputs, NHWC and in order, as a graph from ``image`` to `outputs`.

    The types and shapes of its tensors are those of `raw`.
    """
    from onnx import compose, helper

    network = compose.add_prefix(raw, _PREFIX)
    graph = network.graph
    weights = {tensor.name for tensor in graph.initializer}
    (old_input,) = (value for value in graph.input if value.name not in weights)
    before, after = Nodes(), Nodes()
    value = IMAGE if windows is None else windows.cut(before, IMAGE)
    before.add("Identity", [value], old_input.name)
    for old, stated in zip(graph.output, outputs, strict=True):
        value = old.name
        if windows is not None:
            value = windows.join(after, value, stated.channel_count, prefix=f"{stated.name}/joined")
        after.add("Identity", [value], stated.name)
    element = old_input.type.tensor_type.elem_type
    served = helper.make_graph(
        [*before.made, *graph.node, *after.made],
        raw.graph.name,
        [helper.make_tensor_value_info(IMAGE, element, None)],
        [
            helper.make_tensor_value_info(stated.name, old.type.tensor_type.elem_type, None)
            for old, stated in zip(graph.output, outputs, strict=True)
        ],
        [*graph.initializer, *before.constants, *after.constants],
    )
    return helper.make_model(
        served, opset_imports=network.opset_import, functions=network.functions, ir_version=network.ir_version
    )
