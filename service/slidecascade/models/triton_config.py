"""``config.pbtxt``, a model's configuration for Triton, derived from ``model.yaml``."""

from __future__ import annotations

from typing import Final

from slidecascade.models.spec import AnySpec
from slidecascade.models.tensors import InputSpec, OutputSpec, Shape

WARM_UP_PX: Final = 256

_CONFIG: Final = """\
name: "{name}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {max_batch}
input [
{inputs}
]
output [
{outputs}
]
dynamic_batching {{
  max_queue_delay_microseconds: 2000
}}
instance_group [
  {{
    count: 1
    kind: KIND_AUTO
  }}
]
parameters {{
  key: "sha256"
  value: {{ string_value: "{sha256}" }}
}}
model_warmup [
  {{
    name: "zeros"
    batch_size: 1
{warm_up}
  }}
]
"""
_TENSOR: Final = """\
  {{
    name: "{name}"
    data_type: {data_type}
    dims: [ {dims} ]
  }}"""
_WARM_UP: Final = """\
    inputs {{
      key: "{name}"
      value: {{
        data_type: {data_type}
        dims: [ {dims} ]
        zero_data: true
      }}
    }}"""


def triton_config(spec: AnySpec, *, max_batch: int = 32, warm_up_px: int = WARM_UP_PX) -> str:
    """The text of ``config.pbtxt``.

    Args:
        spec: the model.
        max_batch: maximum images per batch.
        warm_up_px: minimum side of the warm-up images, for free heights and widths.
    """
    signature = spec.signature
    shapes = signature.input_shapes(batch=1, side_px=warm_up_px)
    return _CONFIG.format(
        name=spec.name,
        max_batch=max_batch,
        inputs=",\n".join(_filled(_TENSOR, tensor, tensor.open_shape) for tensor in signature.inputs),
        outputs=",\n".join(_filled(_TENSOR, tensor, tensor.open_shape) for tensor in signature.outputs),
        sha256=spec.sha256,
        warm_up="\n".join(_filled(_WARM_UP, tensor, shapes[tensor.name]) for tensor in signature.inputs),
    )


def _filled(template: str, tensor: InputSpec | OutputSpec, shape: Shape) -> str:
    """Triton implies the batch dimension, so `shape` is written without it."""
    dims = ", ".join(map(str, shape[1:]))
    return template.format(name=tensor.name, data_type=f"TYPE_{tensor.datatype}", dims=dims)
