"""Half precision: the network in float16, what is around it in float32."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from slidecascade_convert.graph import NETWORK

if TYPE_CHECKING:
    import onnx

# Half precision has 11 bits: fused and unfused operators round to values this far apart.
HALF_TOLERANCE: Final = 5e-3


def halved(served: onnx.ModelProto) -> onnx.ModelProto:
    """The served graph with float16 weights and activations; inputs and outputs keep their types.

    Normalisation, softmax or sigmoid of the head and rounding stay float32, so that no probability is coarser
    than the network makes it.
    """
    from onnxruntime.transformers import float16

    # The converter tells nodes apart by name, and calls what it adds after them.
    for index, node in enumerate(served.graph.node):
        node.name = node.name or f"{NETWORK}unnamed_{index}"
    ours = [node.name for node in served.graph.node if not node.name.startswith(NETWORK)]
    with warnings.catch_warnings():
        # One warning per weight too small for float16; what they cost is measured afterwards.
        warnings.simplefilter("ignore")
        model: onnx.ModelProto = float16.convert_float_to_float16(
            served, keep_io_types=True, disable_shape_infer=True, node_block_list=ours
        )
    return model
