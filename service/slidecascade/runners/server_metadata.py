"""What an inference server says of a model, held against the model's package."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import ModelFailedError, ModelPackageError
from slidecascade.models.spec import MAPS, ClassifierSpec, SegmenterSpec

Spec = SegmenterSpec | ClassifierSpec
Tensor = tuple[str, tuple[int, ...]]
"""A tensor's type in the words of the KServe protocol and its shape, -1 where any size is taken."""

REMEDY = "point the server at the same models folder"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is served as its package promises. `output` is the name of its one output."""

    name: str
    version: str
    output: str
    max_batch: int

    def require_output(self, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """Refuse an answer of another shape.

        Raises:
            ModelFailedError: when it is one.
        """
        if found != expected:
            raise ModelFailedError(
                f"Model {self.name!r} on the Triton server returned {found} where {expected} was due: {REMEDY}."
            )


def new_output(spec: Spec, images: tuple[int, ...]) -> NDArray[Any]:
    """Room for the network's output for images ``(N, H, W, 3)`` of that shape."""
    if spec.task == "segment":
        return np.empty((*images[:3], MAPS[spec.head]), np.uint8)
    return np.empty((images[0], len(spec.classes)), np.float32)


def held_against(spec: Spec, metadata: Any, config: Any) -> ServedModel:
    """The model of `metadata` and `config`, messages of Triton's gRPC protocol.

    Raises:
        ModelPackageError: when its input, its output or the sha256 in its ``config.pbtxt`` is not that of `spec`.
    """
    inputs = [(item.name, *_tensor(item)) for item in metadata.inputs]
    outputs = [_tensor(item) for item in metadata.outputs]
    image = ("image", "UINT8", (-1, spec.input.height_px or -1, spec.input.width_px or -1, 3))
    output: Tensor = ("FP32", (-1, len(spec.classes)))
    if spec.task == "segment":
        output = ("UINT8", (-1, -1, -1, MAPS[spec.head]))
    if inputs != [image] or outputs != [output]:
        raise ModelPackageError(
            f"Model {spec.name!r} on the Triton server takes {inputs} and returns {outputs}, but its model.yaml "
            f"implies {[image]} and {[output]}: {REMEDY}."
        )
    stated = config.parameters["sha256"].string_value if "sha256" in config.parameters else spec.sha256
    if stated != spec.sha256:
        raise ModelPackageError(
            f"Model {spec.name!r} on the Triton server is another one than in the models folder: its sha256 is "
            f"{stated[:12]}…, expected {spec.sha256[:12]}…; {REMEDY}."
        )
    # 0 is a model whose batches Triton leaves alone.
    return ServedModel(
        spec.name, str(spec.version), metadata.outputs[0].name, config.max_batch_size or sys.maxsize
    )


def _tensor(item: Any) -> Tensor:
    return item.datatype, tuple(item.shape)
