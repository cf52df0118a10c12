"""The options of a conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from slidecascade.errors import InvalidRequestError
from slidecascade.heads.table import outputs_of
from slidecascade.models.tensors import OutputSpec

Task = Literal["segment", "classify"]
Head = Literal["unet", "semantic", "softmax", "sigmoid"]
Layout = Literal["NHWC", "NCHW"]

_HEADS: Mapping[str, tuple[str, ...]] = {
    "segment": ("unet", "semantic"),
    "classify": ("softmax", "sigmoid"),
}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What the network was trained on: ``pixels * factor + offset`` per channel of its own, pixels 0 to 255."""

    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def scaled(cls, factor: float) -> Normalisation:
        return cls(factor=(factor, factor, factor))

    @classmethod
    def standardised(
        cls, mean: tuple[float, float, float], std: tuple[float, float, float], *, scale: float
    ) -> Normalisation:
        """``(pixels * scale - mean) / std``."""
        first, second, third = (scale / each for each in std)
        offsets = [-each / spread for each, spread in zip(mean, std, strict=True)]
        return cls(factor=(first, second, third), offset=(offsets[0], offsets[1], offsets[2]))

    @property
    def is_identity(self) -> bool:
        return self == Normalisation()

    def apply(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32 of the same shape for uint8 `images` ``(N, H, W, 3)``, or ``(N, H, W, 1)`` of grey."""
        channels = images.shape[-1]
        factor, offset = (np.array(each[:channels], np.float32) for each in (self.factor, self.offset))
        return images.astype(np.float32) * factor + offset


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """One call of ``slidecascade convert``; see its help for the meaning of each field.

    Raises:
        InvalidRequestError: when fields contradict each other.
    """

    source: Path
    name: str
    task: Task
    head: Head
    out: Path
    classes: tuple[str, ...]
    input_px: int | None = None
    mpp: float = 0.25
    crop_px: int | None = None
    halo_px: int = 64
    normalisation: Normalisation = Normalisation()
    bgr: bool = False
    logits: bool = False
    channels: tuple[int, ...] = ()
    arch: str | None = None
    lambdas: Mapping[str, float] = field(default_factory=dict)
    licence: str = "not stated"
    version: int = 1
    int8: bool = False
    fp16: bool = False
    calibrate: Path | None = None
    try_image: Path | None = None
    max_loss: float = 0.005

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """What the head wants of the served graph."""
        return outputs_of(self.head, self.classes)

    @property
    def maps(self) -> int:
        """Maps that are served to a segmenter's head; 0 for a classifier."""
        return 0 if self.task == "classify" else self.outputs[0].channel_count

    def __post_init__(self) -> None:
        require_name(self.name)
        if self.head not in _HEADS[self.task]:
            raise InvalidRequestError(
                f"The head {self.head!r} cannot {self.task}: choose {' or '.join(_HEADS[self.task])}."
            )
        require_classes(self.classes)
        if self.task == "classify" and len(self.classes) < 2:
            raise InvalidRequestError("A classifier needs its class names, in the network's order: add --classes.")
        if self.task == "segment" and len(self.classes) != 1:
            raise InvalidRequestError("A segmenter finds one class of objects: give one --classes.")
        if len(self.channels) > self.maps:
            raise InvalidRequestError(
                "--channels names the foreground channel of a segmenter and, for --head unet, the interior one."
            )
        if self.int8 and self.fp16:
            raise InvalidRequestError("A graph is int8 (for CPUs) or fp16 (for GPUs): convert twice for both.")
        if self.int8 and self.calibrate is None:
            raise InvalidRequestError("int8 needs images like those it will see: add --calibrate DIR.")


def require_name(name: str) -> None:
    """Raises InvalidRequestError unless `name` can be a package's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
        raise InvalidRequestError(f"The name {name!r} must be lower-case letters, digits, dots and dashes.")


def require_classes(classes: tuple[str, ...]) -> None:
    """Raises InvalidRequestError unless `classes` can be names of classes."""
    if len(set(classes)) != len(classes) or not all(classes):
        raise InvalidRequestError("Class names must be unique: correct --classes.")
    if any(not re.fullmatch(r"[^:\n\r]{1,60}", each) for each in classes):
        raise InvalidRequestError("A class name has 1 to 60 characters and no colon: correct --classes.")
