"""Model packages: one folder that SlideCascade and Triton both read, put in place only when it is whole.

models/<name>/model.yaml               what the network is, where it came from, how good it is
models/<name>/config.pbtxt             the same network for a Triton server
models/<name>/<version>/model.onnx     the graph
models/<name>/<version>/parity.json    how far it is from its source, for converted models
models/<name>/README.md                the model card
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from slidecascade.staging import staged_folder

if TYPE_CHECKING:
    import onnx

# Triton's names of the ONNX element types that served graphs use.
_TRITON_TYPES = {"UINT8": "TYPE_UINT8", "FLOAT": "TYPE_FP32"}

_CONFIG = """\
name: "{name}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {max_batch}
input [
  {{
    name: "{input_name}"
    data_type: {input_type}
    dims: [ {input_dims} ]
  }}
]
output [
  {{
    name: "{output_name}"
    data_type: {output_type}
    dims: [ {output_dims} ]
  }}
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
    inputs {{
      key: "{input_name}"
      value: {{
        data_type: {input_type}
        dims: [ {warm_up_dims} ]
        zero_data: true
      }}
    }}
  }}
]
"""


def write_package(
    models_dir: Path,
    spec_fields: Mapping[str, object],
    onnx_model: "onnx.ModelProto",
    card_markdown: str,
    *,
    verify: Callable[[Path], object] | None = None,
    max_batch: int = 32,
    parity_json: str | None = None,
    warm_up_px: int = 256,
) -> Path:
    """Write a model package, replacing an older one of the same name, and return its folder.

    Everything is written to a temporary folder beside the final one and checked there; a failure leaves
    ``models_dir`` as it was.

    Args:
        models_dir: The model repository.
        spec_fields: The fields of ``model.yaml`` except ``sha256``, which is added here.
        onnx_model: The graph: one input, one output, first dimension the batch.
        card_markdown: The model card.
        verify: Called with the written ``model.onnx``; it refuses the package by raising.
        max_batch: Largest batch a Triton server may form.
        parity_json: How far the graph is from its source, kept beside it.
        warm_up_px: Side of the image a Triton server warms up with, where the graph takes any size.

    Raises:
        UnwritableOutputError: The system refused a write; what was there before is unchanged.
        ValueError: The name is not a folder name, or the graph is not one a runner can serve.
    """
    name, version = str(spec_fields["name"]), int(str(spec_fields["version"]))
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError(f"Model name '{name}' must be lower-case letters, digits, dots and dashes.")
    with staged_folder(models_dir / name, replace=True) as package:
        graph_path = package / str(version) / "model.onnx"
        graph_path.parent.mkdir(parents=True)
        (package / "README.md").write_text(card_markdown, encoding="utf-8")
        if parity_json is not None:
            (graph_path.parent / "parity.json").write_text(parity_json, encoding="utf-8")
        _write_graph(graph_path, onnx_model)
        sha256 = hashlib.sha256(graph_path.read_bytes()).hexdigest()
        _write_spec(package / "model.yaml", spec_fields, sha256)
        config = _triton_config(name, onnx_model, max_batch, sha256=sha256, warm_up_px=warm_up_px)
        (package / "config.pbtxt").write_text(config, encoding="utf-8")
        if verify is not None:
            verify(graph_path)
    return models_dir / name


def _write_graph(path: Path, onnx_model: "onnx.ModelProto") -> None:
    import onnx

    onnx.checker.check_model(onnx_model, full_check=True)
    path.write_bytes(onnx_model.SerializeToString())


def _write_spec(path: Path, spec_fields: Mapping[str, object], sha256: str) -> None:
    import yaml

    text = yaml.safe_dump(
        {**spec_fields, "sha256": sha256},
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=110,
    )
    path.write_text(text, encoding="utf-8")


def _triton_config(
    name: str, onnx_model: "onnx.ModelProto", max_batch: int, *, sha256: str, warm_up_px: int
) -> str:
    graph = onnx_model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ValueError(
            f"The graph of '{name}' has {len(graph.input)} inputs and {len(graph.output)} outputs; "
            "export one of each."
        )
    input_type, input_dims = _triton_tensor(graph.input[0])
    output_type, output_dims = _triton_tensor(graph.output[0])
    return _CONFIG.format(
        name=name,
        max_batch=max_batch,
        input_name=graph.input[0].name,
        input_type=input_type,
        input_dims=input_dims,
        output_name=graph.output[0].name,
        output_type=output_type,
        output_dims=output_dims,
        sha256=sha256,
        warm_up_dims=input_dims.replace("-1", str(warm_up_px)),
    )


def _triton_tensor(value: "onnx.ValueInfoProto") -> tuple[str, str]:
    """Triton's data type and dims of a graph tensor; the batch dimension is implied by max_batch_size."""
    import onnx

    tensor = value.type.tensor_type
    onnx_type = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if onnx_type not in _TRITON_TYPES:
        raise ValueError(f"Tensor '{value.name}' is {onnx_type}; served graphs use uint8 and float32 only.")
    batch, *rest = tensor.shape.dim
    if batch.dim_value:
        raise ValueError(f"Tensor '{value.name}' has a fixed batch of {batch.dim_value}; leave it dynamic.")
    return _TRITON_TYPES[onnx_type], ", ".join(str(dim.dim_value or -1) for dim in rest)
