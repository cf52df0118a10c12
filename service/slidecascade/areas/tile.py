"""The work on one tile: read, run the network, divide its mask into pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.work import TileWork, core_blocks
from slidecascade.pipelines.areas import AreasPipeline
from slidecascade.slides.tiling import Tile
from slidecascade.slides.tissue import BLOCK_PX, MARGIN_PX, tissue_blocks
from slidecascade.slides.view import SlideView

SQUARE_PX = 128
"""Side of the squares, counted from the slide's corner, that are looked at when they hold tissue and blank
otherwise.

Coarser than the blocks of tissue, so that what is white inside an area stays in it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AreasWork(TileWork[AreasPipeline, AreasTileResult]):
    """A mask in tiles. The whole halo is the network's receptive field: in its core a mask is that of any tile."""

    @property
    def grid(self) -> Grid:
        return self.grids[self.pipeline.segmenter.name]

    @property
    def aligned_to(self) -> int:
        return lattice_px(self.pipeline)

    @property
    def halo_px(self) -> int:
        return -(-max(self.pipeline.segmenter.halo_px, MARGIN_PX) // self.aligned_to) * self.aligned_to

    @property
    def needed(self) -> Box:
        return needed_box(self.pipeline, self.region_l0, self.grid)

    def result(self, tile: Tile, view: SlideView) -> AreasTileResult:
        """The pieces in the core of `tile`."""
        self.control.check()
        patch = self.read(view, self.grid, tile.read)
        tissue = core_blocks(tissue_blocks(patch, dark_field=self.dark_field), tile)
        unstored_px = self.unstored_px(patch, tile, view)
        if not tissue.any():
            nothing = np.zeros(0, np.int64)
            blank = np.zeros((tile.core.height, tile.core.width), np.int32)
            return AreasTileResult(
                tile.index, tile.core, tissue, blank, nothing, nothing, nothing > 0, unstored_px=unstored_px
            )
        mask = self._mask(patch, tile, tissue)
        with self.stopwatch.measure("decode"):
            labels, classes, pixels, inside = self._pieces(mask, tile.core)
        return AreasTileResult(
            tile.index, tile.core, tissue, labels, classes, pixels, inside, unstored_px=unstored_px
        )

    def _mask(self, patch: NDArray[np.uint8], tile: Tile, tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The classes of the core's pixels, counted from 1."""
        segmenter = self.pipeline.segmenter
        options = segmenter.options.model_copy(update={"foreground": self.thresholds[segmenter.name]})
        outputs = {name: array[0] for name, array in self.run(segmenter, patch[None]).items()}
        self.control.check()
        core = tile.core.shifted(-tile.read.x, -tile.read.y)
        with self.stopwatch.measure("decode"):
            mask = self.pipeline.head.mask(outputs, options)[core.y : core.bottom, core.x : core.right]
            return np.where(_squares_with(tissue, mask.shape), mask, np.uint8(0))

    def _pieces(
        self, mask: NDArray[np.uint8], core: Box
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Labels, and classes, pixels and sides of the region's edge by label."""
        labels = np.zeros(mask.shape, np.int32)
        classes: list[NDArray[np.int64]] = []
        pixels: list[NDArray[np.int64]] = []
        inside: list[NDArray[np.bool_]] = []
        for part, is_inside in self._sides(mask, core):
            for number in np.flatnonzero(np.bincount(part.ravel(), minlength=1)[1:]).tolist():
                chosen = cv2.compare(part, number + 1, cv2.CMP_EQ)
                count, found, stats, _ = cv2.connectedComponentsWithStats(chosen, connectivity=4, ltype=cv2.CV_32S)
                np.copyto(labels, found + sum(len(part) for part in classes), where=found > 0)
                classes.append(np.full(count - 1, number, np.int64))
                pixels.append(stats[1:, cv2.CC_STAT_AREA].astype(np.int64))
                inside.append(np.full(count - 1, is_inside, np.bool_))
        none = np.zeros(0, np.int64)
        return (
            labels,
            np.concatenate([none, *classes]),
            np.concatenate([none, *pixels]),
            np.concatenate([none > 0, *inside]),
        )

    def _sides(self, mask: NDArray[np.uint8], core: Box) -> Iterator[tuple[NDArray[np.uint8], bool]]:
        """The mask inside of the region, and outside of it where the core reaches beyond."""
        owned = owned_box(self.region_l0, self.grid).clipped(core).shifted(-core.x, -core.y)
        window = np.s_[owned.y : owned.bottom, owned.x : owned.right]
        if owned.area == mask.size:
            yield mask, True
            return
        for is_inside in (True, False):
            part = np.zeros_like(mask) if is_inside else mask.copy()
            part[window] = mask[window] if is_inside else 0
            yield part, is_inside


def lattice_px(pipeline: AreasPipeline) -> int:
    """Spacing of the lattice of tiles, a multiple of the network's stride and of the squares."""
    return math.lcm(pipeline.segmenter.input.multiple_of, SQUARE_PX)


def needed_box(pipeline: AreasPipeline, region_l0: Box, grid: Grid) -> Box:
    """The region, and so far around it that what its edge cuts is seen to be a small area or not; in `grid`.

    A connected area that goes on for as many pixels as the smallest one has is not smaller.
    """
    margin = max(0, math.ceil(smallest_px(pipeline, grid)) - 1)
    return grid.box_from_l0(region_l0).inflated(margin).clipped(grid.extent)


def smallest_px(pipeline: AreasPipeline, grid: Grid) -> float:
    """The pixels of the smallest area that is kept."""
    return max(1.0, pipeline.min_area_um2 / grid.mpp**2)


def owned_box(region_l0: Box, grid: Grid) -> Box:
    """The pixels of `grid` whose middle lies in the region; there may be none."""
    x, right = (_pixels_before(at, grid.origin_x_l0, grid.downsample) for at in (region_l0.x, region_l0.right))
    y, bottom = (_pixels_before(at, grid.origin_y_l0, grid.downsample) for at in (region_l0.y, region_l0.bottom))
    return Box(x, y, right - x, bottom - y).clipped(grid.extent)


def _pixels_before(at_l0: int, origin_l0: float, downsample: float) -> int:
    """How many pixels of an axis have their middle before `at_l0`."""
    return max(0, math.ceil((at_l0 - origin_l0) / downsample - 0.5))


def _squares_with(blocks: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of `shape`, true in squares of `SQUARE_PX` that hold one of the `blocks`."""
    each = SQUARE_PX // BLOCK_PX
    rows, columns = (-(-length // each) for length in blocks.shape)
    whole = np.zeros((rows * each, columns * each), np.bool_)
    whole[: blocks.shape[0], : blocks.shape[1]] = blocks
    held = whole.reshape(rows, each, columns, each).any(axis=(1, 3))
    mask: NDArray[np.bool_] = held.repeat(SQUARE_PX, axis=0).repeat(SQUARE_PX, axis=1)[: shape[0], : shape[1]]
    return mask
