"""The result of an `areas` pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.runs import Runs
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.result import RegionResult
from slidecascade.pipelines.areas import CoverageMap
from slidecascade.rings import Rings


@dataclass(frozen=True, slots=True, kw_only=True)
class AreasResult(RegionResult):
    """A mask, as runs of pixels, and its ``N`` areas: pixels of one class that are connected by sides.

    Attributes:
        grid: the network's.
        box: the pixels of `grid` whose middle lies in the region; there may be none.
        runs: of the areas, in pixels of `grid`, labelled ``0..N - 1``.
        overlaps: whether a pixel can be of several classes.
        class_index: ``(N,)`` int64, into `classes.ends`.
        areas_px: ``(N,)`` int64, pixels of `grid`.
        probabilities: ``(N,)`` float64, the mean probability of an area's class over its pixels; NaN where the
            network states none.
        rings: outlines with holes, in level-0 pixels.
        sizes: names of classes of size and their least equivalent diameters in um, which rise.
    """

    kind: ClassVar[str] = "areas"

    grid: Grid
    box: Box
    runs: Runs
    overlaps: bool
    class_index: NDArray[np.int64]
    areas_px: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    rings: Rings
    heatmaps: tuple[CoverageMap, ...]
    sizes: tuple[tuple[str, float], ...] = ()

    @property
    def diameters_um(self) -> NDArray[np.float64]:
        """``(N,)``: the diameters of discs as large as the areas."""
        diameters: NDArray[np.float64] = np.sqrt(4 / np.pi * self.areas_px) * self.grid.mpp
        return diameters

    @property
    def size_index(self) -> NDArray[np.int64]:
        """``(N,)``: into `sizes`, the largest class that each area reaches; -1: none."""
        least = np.array([diameter_um for _, diameter_um in self.sizes])
        return np.searchsorted(least, self.diameters_um, side="right").astype(np.int64) - 1

    def of_class(self, class_index: int) -> Runs:
        """The runs of a class."""
        return self.runs.take(self.class_index[self.runs.labels] == class_index)

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """``(bottom - top, box.width)``: the classes of the pixels of some rows of `box`, counted from 1; 0 is
        background.

        Where classes overlap, bit `k` says whether a pixel is of class `k`, counted from 0.
        """
        mask = np.zeros((bottom - top, self.box.width), np.uint8)
        for number in range(len(self.classes.ends)):
            value = 1 << number if self.overlaps else number + 1
            painted = self.of_class(number).painted(
                Box(self.box.x, self.box.y + top, self.box.width, bottom - top)
            )
            mask |= painted.astype(np.uint8) * np.uint8(value)
        return mask

    @property
    def mask(self) -> NDArray[np.uint8]:
        """All of `rows`."""
        return self.rows(0, self.box.height)

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
