"""The result of an `areas` pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box, Grid
from slidecascade.kinds.result import RegionResult
from slidecascade.pipelines.areas import CoverageMap
from slidecascade.rings import Rings


@dataclass(frozen=True, slots=True, kw_only=True)
class AreasResult(RegionResult):
    """A mask and its ``N`` areas: pixels of one class that are connected by sides.

    Attributes:
        grid: the network's.
        box: the pixels of `grid` whose middle lies in the region; there may be none.
        labels: ``(L, box.height, box.width)`` int32, the areas ``1..N``; 0 is background. One layer, or one for
            each class where classes overlap.
        class_index: ``(N,)`` int64, into `classes.ends`.
        areas_px: ``(N,)`` int64, pixels of `grid`.
        probabilities: ``(N,)`` float64, the mean probability of an area's class over its pixels; NaN where the
            network states none.
        rings: outlines with holes, in level-0 pixels.
    """

    kind: ClassVar[str] = "areas"

    grid: Grid
    box: Box
    labels: NDArray[np.int32]
    class_index: NDArray[np.int64]
    areas_px: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    rings: Rings
    heatmaps: tuple[CoverageMap, ...]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """``(h, w)``: the class of each pixel, counted from 1; 0 is background.

        Where classes overlap, bit `k` says whether a pixel is of class `k`, counted from 0.
        """
        if len(self.labels) == 1:
            return np.append(0, self.class_index + 1).astype(np.uint8)[self.labels[0]]
        bits = (1 << np.arange(len(self.labels))).astype(np.uint8)
        return np.bitwise_or.reduce(np.where(self.labels > 0, bits[:, None, None], np.uint8(0)), axis=0)

    def covered(self, class_index: int, left: int = 0, right: int | None = None) -> NDArray[np.bool_]:
        """``(h, w)``: the pixels of a class; those of the columns ``left..right - 1`` alone."""
        of_class = np.append(False, self.class_index == class_index)
        return np.asarray(of_class[self.labels[class_index if len(self.labels) > 1 else 0][:, left:right]])

    @property
    def counts(self) -> dict[str, int]:
        """Areas by class name."""
        numbers = np.bincount(self.class_index, minlength=len(self.classes.ends))
        return {end.name: int(number) for end, number in zip(self.classes.ends, numbers, strict=True)}

    @property
    def pixels(self) -> dict[str, int]:
        """Pixels of `grid` by class name."""
        sums = np.zeros(len(self.classes.ends), np.int64)
        np.add.at(sums, self.class_index, self.areas_px)
        return {end.name: int(number) for end, number in zip(self.classes.ends, sums, strict=True)}
