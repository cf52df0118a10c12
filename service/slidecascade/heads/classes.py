"""Probability maps of classes to a class per pixel: the most probable one that reaches the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from slidecascade.heads.head import MaskHead, SegmenterOptions
from slidecascade.heads.labels import grey_level
from slidecascade.models.tensors import OutputSpec, Tensors


class ClassesHead(MaskHead[SegmenterOptions]):
    """A pixel belongs to the class of the highest map, the first of equals, where that reaches `foreground`."""

    name: ClassVar[str] = "classes"
    states_probabilities: ClassVar[bool] = True
    options = SegmenterOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        """A map of ``round(255 * p)`` for each class, a pixel for each pixel of the input."""
        return (
            OutputSpec(
                name="maps",
                dtype="uint8",
                layout="NHWC",
                shape=("batch", "height", "width", len(classes)),
                channels=tuple(classes),
                range=(0, 255),
                meaning="probability",
            ),
        )

    def mask(self, outputs: Tensors, options: SegmenterOptions) -> npt.NDArray[np.uint8]:
        maps = outputs["maps"]
        best = maps.argmax(axis=2).astype(np.uint8) + np.uint8(1)
        return np.where(maps.max(axis=2) >= grey_level(options.foreground), best, np.uint8(0))

    def probabilities_of(self, outputs: Tensors, options: SegmenterOptions) -> npt.NDArray[np.uint8]:  # noqa: ARG002 - of all heads
        return np.asarray(outputs["maps"], np.uint8)


CLASSES: Final = ClassesHead()
