"""Half precision: the network in float16, pre- and postprocessing in float32."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from slidecascade.privacy import forbid_telemetry

if TYPE_CHECKING:
    import onnx

# Half precision has 11 bits: fused and unfused operators round to values this far apart.
HALF_TOLERANCE: Final = 5e-3


def halved(network: onnx.ModelProto) -> onnx.ModelProto:
    """The exported network with float16 inside, changed in place; its input and output keep their types."""
    forbid_telemetry()
    from onnxruntime.transformers import float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    # The converter names new nodes after adjacent ones, which may have no names.
    for index, node in enumerate(network.graph.node):
        node.name = node.name or f"unnamed_{index}"
    with warnings.catch_warnings():
        # One warning per weight too small for float16; the effect is measured afterwards.
        warnings.simplefilter("ignore")
        model: onnx.ModelProto = float16.convert_float_to_float16(network, keep_io_types=True)
    OnnxModel(model).topological_sort()
    # Shapes that were inferred for the conversion; the runtime infers its own.
    del model.graph.value_info[:]
    return model
