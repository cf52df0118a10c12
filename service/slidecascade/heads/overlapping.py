"""Probability maps of classes that may overlap, each decided by itself: networks that end in sigmoids."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from slidecascade.heads.classes import ClassesHead
from slidecascade.heads.head import SegmenterOptions
from slidecascade.heads.labels import grey_level
from slidecascade.models.tensors import Tensors


class _OverlappingHead(ClassesHead):
    """A pixel is of every class whose map reaches `foreground`."""

    name: ClassVar[str] = "overlapping"
    overlaps: ClassVar[bool] = True

    def masks(self, outputs: Tensors, options: SegmenterOptions) -> npt.NDArray[np.uint8]:
        maps = outputs["maps"]
        numbers = np.arange(1, maps.shape[2] + 1, dtype=np.uint8)[:, None, None]
        return np.where(maps.transpose(2, 0, 1) >= grey_level(options.foreground), numbers, np.uint8(0))


OVERLAPPING: Final = _OverlappingHead()
