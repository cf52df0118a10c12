"""Model packages: one folder that SlideCascade and Triton both read, put in place only when it is whole.

models/<name>/model.yaml               what the network is, where it came from, how good it is
models/<name>/config.pbtxt             the same network for a Triton server
models/<name>/<version>/model.onnx     the graph
models/<name>/<version>/parity.json    how far it is from its source, for converted models
models/<name>/<version>/tryout.png     what it finds beside its source, for converted models
models/<name>/README.md                the model card
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slidecascade.models.repository import model_yaml
from slidecascade.models.spec import AnySpec, ClassifierSpec
from slidecascade.models.tensors import InputSpec, OutputSpec
from slidecascade.models.triton_config import WARM_UP_PX, triton_config
from slidecascade.staging import staged_folder
from slidecascade_convert.receptive_field import receptive_field_px

if TYPE_CHECKING:
    import onnx

PICTURE_FILE: Final = "tryout.png"


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A checked graph as it is written, and the sha256 by which ``model.yaml`` vouches for it."""

    content: bytes
    sha256: str

    @classmethod
    def of(cls, onnx_model: onnx.ModelProto) -> ServedGraph:
        """`onnx_model`, serialised.

        Raises:
            onnx.checker.ValidationError: when it is not a valid graph.
        """
        import onnx

        onnx.checker.check_model(onnx_model, full_check=True)
        content = onnx_model.SerializeToString()
        return cls(content, hashlib.sha256(content).hexdigest())


def write_package(
    models_dir: Path,
    spec: AnySpec,
    graph: ServedGraph,
    card_markdown: str,
    *,
    verify: Callable[[Path], object] | None = None,
    max_batch: int = 32,
    parity_json: str | None = None,
    warm_up_px: int = WARM_UP_PX,
    picture_png: bytes | None = None,
) -> Path:
    """Write a model package, replacing an older one of the same name, and return its folder.

    Everything is written to a temporary folder beside the final one and checked there; a failure leaves
    ``models_dir`` as it was.

    Args:
        models_dir: The model repository.
        spec: What ``model.yaml`` states; its sha256 is that of `graph`.
        graph: The graph, with the inputs and outputs that `spec` states.
        card_markdown: The model card.
        verify: called with the written ``model.onnx``; raises an error to reject the package.
        max_batch: Largest batch a Triton server may form.
        parity_json: How far the graph is from its source, kept beside it.
        warm_up_px: Side of the image a Triton server warms up with, where the graph takes any size.
        picture_png: What the graph finds beside its source, as a picture.

    Raises:
        UnwritableOutputError: The system refused a write; what was there before is unchanged.
        ValueError: The graph has other tensors than `spec` states, or a fixed batch, or is another one.
    """
    spec = _with_receptive_field(spec, _require_stated(spec, graph))
    with staged_folder(models_dir / spec.name, replace=True) as package:
        graph_path = package / str(spec.version) / "model.onnx"
        graph_path.parent.mkdir(parents=True)
        (package / "README.md").write_text(card_markdown, encoding="utf-8")
        if parity_json is not None:
            (graph_path.parent / "parity.json").write_text(parity_json, encoding="utf-8")
        if picture_png is not None:
            (graph_path.parent / PICTURE_FILE).write_bytes(picture_png)
        graph_path.write_bytes(graph.content)
        (package / "model.yaml").write_text(model_yaml(spec), encoding="utf-8")
        config = triton_config(spec, max_batch=max_batch, warm_up_px=warm_up_px)
        (package / "config.pbtxt").write_text(config, encoding="utf-8")
        if verify is not None:
            verify(graph_path)
    return models_dir / spec.name


def _with_receptive_field(spec: AnySpec, model: onnx.ModelProto) -> AnySpec:
    """`spec` with the receptive field of its graph; a classifier's outputs depend on the whole crop."""
    if isinstance(spec, ClassifierSpec):
        return spec.model_copy(update={"receptive_field_px": max(spec.crop_shape_px)})
    image = spec.input
    field_px = receptive_field_px(model, image.name, layout=image.layout, multiple_of=image.multiple_of)
    return spec if field_px is None else spec.model_copy(update={"receptive_field_px": field_px})


def _require_stated(spec: AnySpec, graph: ServedGraph) -> onnx.ModelProto:
    """The graph as a model, when it has the tensors that `spec` states; raises ValueError."""
    import onnx

    if spec.sha256 != graph.sha256:
        raise ValueError(f"The spec of {spec.name!r} vouches for another graph: give it the sha256 of this one.")
    model = onnx.load_model_from_string(graph.content)
    of_graph = model.graph
    for kind, stated, found in (
        ("inputs", _stated(spec.inputs), _found(of_graph.input)),
        ("outputs", _stated(spec.outputs), _found(of_graph.output)),
    ):
        if stated != found:
            raise ValueError(
                f"The graph of {spec.name!r} has the {kind} {found}, its spec states {stated}: export it with "
                "these, and with a dynamic batch."
            )
    return model


Stated = list[tuple[str, str, tuple[int, ...]]]


def _stated(tensors: Iterable[InputSpec | OutputSpec]) -> Stated:
    return sorted((tensor.name, tensor.dtype, tensor.open_shape) for tensor in tensors)


def _found(values: Iterable[onnx.ValueInfoProto]) -> Stated:
    """Name, NumPy type and shape of graph tensors, -1 for dimensions of any size."""
    from onnx import helper

    return sorted(
        (
            value.name,
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(size.dim_value or -1 for size in value.type.tensor_type.shape.dim),
        )
        for value in values
    )
