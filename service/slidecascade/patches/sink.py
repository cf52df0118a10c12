"""The lattice of a region from the results of its tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box
from slidecascade.kinds.mosaic import paste
from slidecascade.kinds.result import Account, Subject
from slidecascade.kinds.sink import MemorySink
from slidecascade.patches.result import Outlines, PatchesResult
from slidecascade.patches.tile_result import PatchesTileResult
from slidecascade.pipelines.patches import PatchesPipeline
from slidecascade.rings import Rings, trace
from slidecascade.slides.flaws import Flaws
from slidecascade.slides.tissue import BLOCK_PX
from slidecascade.warning import AnswerWarning


class PatchesSink(MemorySink[PatchesPipeline, PatchesTileResult]):
    """Keeps all probabilities and makes a `PatchesResult` of them."""

    def finish(self, subject: Subject, account: Account) -> PatchesResult:
        squares = self._squares()
        probabilities = self._probabilities(squares)
        threshold = subject.thresholds[self._pipeline.classifier.name]
        common = self.common(subject, account)
        if squares.area == 0 and not common["warnings"]:
            common["warnings"] = (self._too_small(),)
        return PatchesResult(
            **common,
            grid=self._grid,
            stride_px=self._pipeline.stride_px,
            first=(squares.x, squares.y),
            probabilities=probabilities,
            shown=self._pipeline.outlined,
            outlines=self._outlines(probabilities, squares, threshold),
            heatmaps=self._pipeline.heatmaps,
        )

    def _squares(self) -> Box:
        """The squares of the lattice whose middle lies in the region; there may be none."""
        region, stride, downsample = self._region_l0, self._pipeline.stride_px, self._grid.downsample
        left, right = (_squares_before(at, stride, downsample) for at in (region.x, region.right))
        top, bottom = (_squares_before(at, stride, downsample) for at in (region.y, region.bottom))
        return Box(left, top, right - left, bottom - top)

    def _too_small(self) -> AnswerWarning:
        """Of a region without a square."""
        side_um = self._pipeline.stride_px * self._grid.mpp
        message = (
            f"The region holds the middle of no square, so nothing was classified: squares are "
            f"{side_um:g} um wide and count from the slide's corner; choose a larger region."
        )
        return AnswerWarning("nothing-analysed", message)

    def _probabilities(self, squares: Box) -> NDArray[np.float32]:
        count = len(self._pipeline.classifier.classes)
        found = np.full((squares.height, squares.width, count), np.nan, np.float32)
        for result in self._results:
            rows, columns = result.probabilities.shape[:2]
            paste(result.probabilities, Box(*result.first, columns, rows), found, squares)
        return found

    def _outlines(self, probabilities: NDArray[np.float32], squares: Box, threshold: float) -> Outlines:
        """Of each class by itself: where probabilities are each their own, a square may be of several."""
        rings, index, sizes, means = [], [], [], []
        for place, channel in enumerate(self._pipeline.outlined):
            values = probabilities[:, :, channel]
            labels = np.zeros(values.shape, np.int32)
            if values.size:
                mask = (values >= threshold).astype(np.uint8)
                labels = np.asarray(cv2.connectedComponents(mask, connectivity=4, ltype=cv2.CV_32S)[1], np.int32)
            rings.append(trace(labels))
            number = len(rings[-1])
            size = np.bincount(labels.ravel(), minlength=number + 1)[1:]
            total = np.bincount(labels.ravel(), weights=np.nan_to_num(values).ravel(), minlength=number + 1)[1:]
            index.append(np.full(number, place, np.int64))
            sizes.append(size.astype(np.int64))
            means.append(total / np.maximum(size, 1))
        return Outlines(
            self._in_l0(Rings.concatenate(rings), squares),
            np.concatenate(index),
            np.concatenate(sizes),
            np.concatenate(means),
        )

    def _in_l0(self, rings: Rings, squares: Box) -> Rings:
        """Outlines in squares as outlines in level-0 pixels, without what reaches beyond the slide."""
        stride, grid = self._pipeline.stride_px, self._grid
        in_grid = rings.transformed(scale=stride, shift_x=squares.x * stride, shift_y=squares.y * stride)
        clipped = in_grid.clipped(width=grid.size.width, height=grid.size.height)
        return clipped.transformed(scale=grid.downsample, shift_x=grid.origin_x_l0, shift_y=grid.origin_y_l0)


def joined(
    results: Iterable[PatchesTileResult], index: int, core: Box, pipeline: PatchesPipeline
) -> PatchesTileResult:
    """The tiles of a block as one tile, whose core is that of all; NaN and no tissue where tiles failed."""
    stride, block = pipeline.stride_px, BLOCK_PX
    columns, rows = -(-core.width // stride), -(-core.height // stride)
    first = (core.x // stride, core.y // stride)
    found = np.full((rows, columns, len(pipeline.classifier.classes)), np.nan, np.float32)
    blocks = Box(core.x // block, core.y // block, -(-core.width // block), -(-core.height // block))
    tissue = np.zeros((blocks.height, blocks.width), np.bool_)
    unstored_px = 0.0
    flaws = []
    for result in results:
        height, width = result.probabilities.shape[:2]
        paste(result.probabilities, Box(*result.first, width, height), found, Box(*first, columns, rows))
        left, top = result.core.x // block, result.core.y // block
        height, width = result.tissue.shape
        paste(result.tissue, Box(left, top, width, height), tissue, blocks)
        unstored_px += result.unstored_px
        flaws.append(result.flaws)
    return PatchesTileResult(index, core, tissue, first, found, unstored_px=unstored_px, flaws=Flaws.total(flaws))


def _squares_before(at_l0: int, stride_px: int, downsample: float) -> int:
    """How many squares of an axis have their middle before `at_l0`."""
    count = max(0, math.ceil(at_l0 / (stride_px * downsample) - 0.5))
    # As the tiles compute middles, for rounding must not put a square on both sides of an edge.
    while count and (count - 0.5) * stride_px * downsample >= at_l0:
        count -= 1
    while (count + 0.5) * stride_px * downsample < at_l0:
        count += 1
    return count
