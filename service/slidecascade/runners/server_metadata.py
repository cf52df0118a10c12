"""Validates an inference server's metadata of a model against the model's package."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slidecascade.errors import ModelFailedError, ModelPackageError
from slidecascade.models.spec import AnySpec
from slidecascade.models.tensors import InputSpec, OutputSpec, Shape, Signature

Spec = AnySpec
Tensor = tuple[str, str, Shape]
"""A tensor's name, its KServe datatype and its shape, with -1 for free dimensions."""

REMEDY = "start the server on the same models folder"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A served model whose metadata matches its package."""

    name: str
    version: str
    signature: Signature
    max_batch: int

    def require_output(self, name: str, found: Shape, expected: Shape) -> None:
        """Validate the shape of output `name`.

        Raises:
            ModelFailedError: when `found` is not `expected`.
        """
        if found != expected:
            raise ModelFailedError(
                f"Model {self.name!r} on the Triton server returned {name!r} with shape {found}, expected "
                f"{expected}: {REMEDY}."
            )


def require_served(spec: Spec, metadata: Any, config: Any) -> ServedModel:
    """The served model of `metadata` and `config`, messages of Triton's gRPC protocol.

    Raises:
        ModelPackageError: when its inputs, outputs or the sha256 in its ``config.pbtxt`` differ from `spec`.
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
            f"Model {spec.name!r} on the Triton server differs from the one in the models folder: its sha256 is "
            f"{sha256[:12]}…, expected {spec.sha256[:12]}…; {REMEDY}."
        )
    # 0: Triton does not batch this model and sets no maximum.
    return ServedModel(spec.name, str(spec.version), signature, config.max_batch_size or sys.maxsize)


def _stated(tensors: Iterable[InputSpec | OutputSpec]) -> list[Tensor]:
    return sorted((tensor.name, tensor.datatype, tensor.open_shape) for tensor in tensors)
