"""The work on one tile: read, cut the context of each square, classify."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box, Grid
from slidecascade.kinds.work import TileWork, core_blocks
from slidecascade.patches.tile_result import PatchesTileResult
from slidecascade.pipelines.patches import PatchesPipeline
from slidecascade.slides import crops
from slidecascade.slides.flaws import MARGIN_PX
from slidecascade.slides.tiling import Tile
from slidecascade.slides.tissue import BLOCK_PX, tissue_blocks
from slidecascade.slides.view import SlideView

BATCH = 32
"""Patches per run of the classifier."""

GLASS, DARK = 255, 0
"""What lies beyond the slide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchesWork(TileWork[PatchesPipeline, PatchesTileResult]):
    """Squares of a lattice of the slide, each owned by the tile and by the region that hold its middle."""

    @property
    def grid(self) -> Grid:
        return self.grids[self.pipeline.classifier.name]

    @property
    def aligned_to(self) -> int:
        return lattice_px(self.pipeline)

    @property
    def start_px(self) -> int:
        """Where a context starts, counted from its square: the whole pixel nearest to half their difference."""
        return math.floor((self.pipeline.stride_px - self.pipeline.context_px) / 2 + 0.5)

    @property
    def before_px(self) -> int:
        """How far contexts reach beyond squares to the left and upwards."""
        return max(0, -self.start_px)

    @property
    def after_px(self) -> int:
        """How far contexts reach beyond squares to the right and downwards, those that are shifted included."""
        end = self.start_px + self.pipeline.context_px - self.pipeline.stride_px
        return max(0, end) + (self.before_px if self.pipeline.edge == "clamp" else 0)

    @property
    def halo_px(self) -> int:
        return -(-max(self.before_px, self.after_px, MARGIN_PX) // self.aligned_to) * self.aligned_to

    def result(self, tile: Tile, view: SlideView) -> PatchesTileResult:
        """The probabilities of the squares of `tile` that hold tissue and whose middle is in the region."""
        self.control.check()
        patch = self.read(view, self.grid, tile.read)
        blocks, flaws = self.without_flaws(patch, tissue_blocks(patch, dark_field=self.dark_field), tile)
        tissue = core_blocks(blocks, tile)
        stride = self.pipeline.stride_px
        first = (tile.core.x // stride, tile.core.y // stride)
        columns, rows = -(-tile.core.width // stride), -(-tile.core.height // stride)
        wanted = _squares_with(tissue, rows, columns, stride // BLOCK_PX) & self._owned(first, rows, columns)
        found = np.full((rows, columns, len(self.pipeline.classifier.classes)), np.nan, np.float32)
        places = np.argwhere(wanted)
        if len(places):
            found[wanted] = self._probabilities(
                self._canvas(self.normalised(patch), tile), self._corners(tile, places)
            )
        unstored_px = self.unstored_px(patch, tile, view)
        return PatchesTileResult(tile.index, tile.core, tissue, first, found, unstored_px=unstored_px, flaws=flaws)

    def _owned(self, first: tuple[int, int], rows: int, columns: int) -> NDArray[np.bool_]:
        """``(rows, columns)``: the squares whose middle lies in the region."""
        x, y = np.meshgrid(np.arange(columns) + first[0] + 0.5, np.arange(rows) + first[1] + 0.5)
        middles = np.stack([x.ravel(), y.ravel()], axis=1) * self.pipeline.stride_px
        inside = self.region_l0.contains(self.grid.l0_from_grid(middles))
        return inside.reshape(rows, columns)

    def _canvas(self, patch: NDArray[np.uint8], tile: Tile) -> NDArray[np.uint8]:
        """The core and what contexts reach around it, blank beyond the slide."""
        stride, before, after = self.pipeline.stride_px, self.before_px, self.after_px
        box = Box(
            tile.core.x - before,
            tile.core.y - before,
            before + -(-tile.core.width // stride) * stride + after,
            before + -(-tile.core.height // stride) * stride + after,
        )
        canvas = np.full((box.height, box.width, 3), DARK if self.dark_field else GLASS, np.uint8)
        shown = box.clipped(self.grid.extent).clipped(tile.read)
        there, here = shown.shifted(-tile.read.x, -tile.read.y), shown.shifted(-box.x, -box.y)
        canvas[here.y : here.bottom, here.x : here.right] = patch[there.y : there.bottom, there.x : there.right]
        return canvas

    def _corners(self, tile: Tile, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """``(N, 2)`` x and y of the contexts of squares at `places` (row, column) of the core, in the canvas."""
        core = np.array([tile.core.x, tile.core.y])
        starts = core + places[:, ::-1] * self.pipeline.stride_px + self.start_px
        if self.pipeline.edge == "clamp":
            starts = np.maximum(starts, 0)
        corners: NDArray[np.int64] = starts - core + self.before_px
        return corners

    def _probabilities(self, canvas: NDArray[np.uint8], corners: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(N, C)`` for the contexts at `corners` of `canvas`."""
        model = self.pipeline.classifier
        height_px, width_px = model.crop_shape_px
        parts = []
        for begin in range(0, len(corners), BATCH):
            batch = corners[begin : begin + BATCH]
            # The product of a single row is rounded in another way than that of several: no image runs alone.
            images = crops.cut(
                canvas,
                np.concatenate([batch, batch]) if len(batch) == 1 else batch,
                size_px=self.pipeline.context_px,
                height_px=height_px,
                width_px=width_px,
            )
            parts.append(self.pipeline.head.probabilities(self.run(model, images))[: len(batch)])
        return np.concatenate(parts)


def lattice_px(pipeline: PatchesPipeline) -> int:
    """Spacing of the lattice of tiles, a multiple of the squares and of the blocks of tissue."""
    return math.lcm(pipeline.stride_px, BLOCK_PX)


def _squares_with(blocks: NDArray[np.bool_], rows: int, columns: int, blocks_each: int) -> NDArray[np.bool_]:
    """``(rows, columns)``: which squares of so many blocks each way hold one of `blocks`."""
    whole = np.zeros((rows * blocks_each, columns * blocks_each), np.bool_)
    whole[: blocks.shape[0], : blocks.shape[1]] = blocks
    held = whole.reshape(rows, blocks_each, columns, blocks_each).any(axis=(1, 3))
    return np.asarray(held, np.bool_)
