"""What the cells of an answer say of its trustworthiness: their size, and classes that lie at glass.

Both are judged by numbers that add up over parts of a slide, so that a region and a job say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Mpp
from slidecascade.kinds.result import RegionResult, TissueMap
from slidecascade.slides.tissue import REACH_BLOCKS
from slidecascade.warning import AnswerWarning

MIN_CELLS: Final = 30
"""Fewer say nothing about usual sizes or places."""

PLAUSIBLE: Final = (0.43, 1.7)
"""The median diameter over the usual one of the segmenter; see docs/warnings.md for the rates."""

GLASS_UM: Final = 12.0
"""Cells whose centre lies so near to glass are pressed against it."""

MIN_CLASS: Final = 12
MIN_AT_GLASS: Final = 0.3
MIN_EXCESS: Final = 3.0
"""A class of so many cells is doubted when so large a part of it lies at glass, and so many times that of all."""

_PER_DOUBLING: Final = 48
_FIRST_LOG2: Final = -2.0
_BINS: Final = 16 * _PER_DOUBLING
"""Diameters are counted in bins of 1.5 %, from a quarter of a pixel on."""


class Census:
    """Sizes and places of cells, counted in any number of portions.

    Args:
        result: states pixel size, tissue and classes; its cells are not counted before `add`.
        usual_um: the usual diameter of the segmenter's objects; None: sizes are not judged.
    """

    def __init__(self, result: RegionResult, usual_um: float | None) -> None:
        self._mpp = result.physical_mpp
        self._usual_um = usual_um
        self._names = [end.name for end in result.classes.ends]
        self._glass = None if self._mpp is None or result.facts.dark_field else _NearGlass.of(result.tissue)
        self._sizes = np.zeros(_BINS, np.int64)
        self._cells = np.zeros(len(self._names), np.int64)
        self._at_glass = np.zeros(len(self._names), np.int64)

    def add(
        self,
        centroids_l0: NDArray[np.float64],
        areas_l0: NDArray[np.float64],
        class_index: NDArray[np.int64],
        *,
        times: int = 1,
    ) -> None:
        """Count cells ``(N, 2)``, ``(N,)``, ``(N,)``; with `times` -1 they are taken out again."""
        diameters = np.sqrt(4 / np.pi * np.maximum(areas_l0, 1e-6))
        bins = np.clip((np.log2(diameters) - _FIRST_LOG2) * _PER_DOUBLING, 0, _BINS - 1).astype(np.int64)
        self._sizes += times * np.bincount(bins, minlength=_BINS)
        self._cells += times * np.bincount(class_index, minlength=len(self._cells))
        if self._glass is not None:
            at_glass = class_index[self._glass.holds(centroids_l0)]
            self._at_glass += times * np.bincount(at_glass, minlength=len(self._cells))

    def warnings(self) -> Iterator[AnswerWarning]:
        """The doubts; none about few cells, nor without a known size of pixels."""
        if self._mpp is None or self._cells.sum() < MIN_CELLS:
            return
        if self._usual_um is not None:
            yield from self._size(self._mpp, self._usual_um)
        if self._glass is not None:
            yield from self._edges()

    def _size(self, mpp: Mpp, usual_um: float) -> Iterator[AnswerWarning]:
        middle = int(np.searchsorted(np.cumsum(self._sizes), self._sizes.sum() / 2))
        median_um = mpp * 2.0 ** (_FIRST_LOG2 + (middle + 0.5) / _PER_DOUBLING)
        if PLAUSIBLE[0] <= median_um / usual_um <= PLAUSIBLE[1]:
            return
        yield AnswerWarning(
            "implausible-object-size",
            f"At {mpp:.3g} um per pixel the median object is {median_um:.2g} um wide, where {usual_um:.2g} um are "
            f"usual for the segmenter, as they would be with about {mpp * usual_um / median_um:.2g} um per pixel: "
            "check the pixel size and send the right `mpp`.",
        )

    def _edges(self) -> Iterator[AnswerWarning]:
        of_all = self._at_glass.sum() / self._cells.sum()
        for name, cells, near in zip(self._names, self._cells.tolist(), self._at_glass.tolist(), strict=True):
            if cells >= MIN_CLASS and near >= max(MIN_AT_GLASS, MIN_EXCESS * of_all) * cells:
                yield AnswerWarning(
                    "glass-edge",
                    f"{near} of {cells} cells of the class {name} lie within {GLASS_UM:g} um of glass, where "
                    f"{of_all:.0%} of all cells lie: torn edges may have been taken for it; look at the outlines, "
                    "or analyse a region away from the edge.",
                )


@dataclass(frozen=True, slots=True)
class _NearGlass:
    """The blocks of `tissue` that are within `GLASS_UM` of glass."""

    tissue: TissueMap
    near: NDArray[np.bool_]

    @classmethod
    def of(cls, tissue: TissueMap) -> _NearGlass:
        """Tissue reaches some blocks over its edge, which are taken back; beyond the map nothing is glass."""
        side = 2 * REACH_BLOCKS + 1
        inside = cv2.erode(tissue.mask.view(np.uint8), np.ones((side, side), np.uint8))
        blocks = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
        # From the middle of a block to that of one of glass, half of which is not in the way.
        return cls(tissue, np.asarray(blocks <= GLASS_UM / tissue.grid.mpp + 0.5, np.bool_))

    def holds(self, centroids_l0: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which positions ``(N, 2)`` lie on such blocks."""
        height, width = self.near.shape
        places = np.floor(self.tissue.grid.grid_from_l0(centroids_l0)).astype(np.int64)
        columns, rows = np.clip(places[:, 0], 0, width - 1), np.clip(places[:, 1], 0, height - 1)
        found: NDArray[np.bool_] = self.near[rows, columns]
        return found
