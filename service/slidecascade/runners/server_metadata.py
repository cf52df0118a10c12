"""What an inference server states of a model, validated against the model's package."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slidecascade.errors import ModelFailedError, ModelPackageError
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade.models.tensors import InputSpec, OutputSpec, Shape, Signature

Spec = SegmenterSpec | ClassifierSpec
Tensor = tuple[str, str, Shape]
"""A tensor's name, its type in the words of the KServe protocol and its shape, -1 where any size is taken."""

REMEDY = "point the server at the same models folder"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is served as its package promises."""

    name: str
    version: str
    signature: Signature
    max_batch: int

    def require_output(self, name: str, found: Shape, expected: Shape) -> None:
        """Refuse an answer whose output `name` has another shape.

        Raises:
            ModelFailedError: when it has.
        """
        if found != expected:
            raise ModelFailedError(
                f"Model {self.name!r} on the Triton server returned {name!r} as {found} where {expected} was due: "
                f"{REMEDY}."
            )


def require_served(spec: Spec, metadata: Any, config: Any) -> ServedModel:
    """The model of `metadata` and `config`, messages of Triton's gRPC protocol.

    Raises:
        ModelPackageError: when its inputs, outputs or the sha256 in its ``config.pbtxt`` are not those of `spec`.
    """
    signature = spec.signature
    for kind, stated, served in (
        ("takes", signature.inputs, metadata.inputs),
        ("returns", signature.outputs, metadata.outputs),
    ):
        due, found = _stated(stated), sorted((item.name, item.datatype, tuple(item.shape)) for item in served)
        if found != due:
            raise ModelPackageError(
                f"Model {spec.name!r} on the Triton server {kind} {found}, its model.yaml states {due}: {REMEDY}."
            )
    sha256 = config.parameters["sha256"].string_value if "sha256" in config.parameters else spec.sha256
    if sha256 != spec.sha256:
        raise ModelPackageError(
            f"Model {spec.name!r} on the Triton server is another one than in the models folder: its sha256 is "
            f"{sha256[:12]}…, expected {spec.sha256[:12]}…; {REMEDY}."
        )
    # 0 is a model whose batches Triton leaves alone.
    return ServedModel(spec.name, str(spec.version), signature, config.max_batch_size or sys.maxsize)


def _stated(tensors: Iterable[InputSpec | OutputSpec]) -> list[Tensor]:
    return sorted((tensor.name, tensor.datatype, tensor.open_shape) for tensor in tensors)
