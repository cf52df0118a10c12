"""The work on one tile: read, segment, decode, own, classify. A straight line; concurrency lives outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.cancellation import Control
from slidecascade.cells import cascade, seams
from slidecascade.cells.instances import Instances
from slidecascade.cells.look import Look, look_at
from slidecascade.cells.second_look import SQUARE_PX, SecondLook
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box, Grid
from slidecascade.models.spec import ClassifierSpec
from slidecascade.pipelines.load import Pipeline
from slidecascade.runners.runner import Runner
from slidecascade.slides.tiling import Tile, whole_lattice
from slidecascade.slides.tissue import BLOCK_PX, tissue_blocks
from slidecascade.slides.view import SlideView
from slidecascade.timing import Stopwatch

_SEEN_PX = 16
"""Distance of the pixels looked at for the white of what is not stored: files store tiles of 64 px or more."""

EXACT_PX = 28
"""So far around a core maps are exact: a model's `halo_px` is the radius of its receptive field and this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWork:
    """Everything the tiles of a region share.

    `region_l0` is the box whose cells are wanted, in level-0 pixels. `grids` holds the pixel grid of every model
    by name; `thresholds` the foreground probability of the segmenter and the least class probability of each
    classifier, by name.
    """

    pipeline: Pipeline
    region_l0: Box
    grids: Mapping[str, Grid]
    thresholds: Mapping[str, float]
    dark_field: bool
    runner: Runner
    control: Control
    stopwatch: Stopwatch

    @property
    def grid(self) -> Grid:
        """The segmenter's grid, in which tiles are cut."""
        return self.grids[self.pipeline.segmenter.name]

    @property
    def max_cell_px(self) -> int:
        """Longest side of a cell, in pixels of the segmenter's grid; larger objects are dropped in any tiling.

        Twice the halo, less what a centroid may lie outside a core: then a tile that reads with a doubled halo
        sees the whole of every cell it may have to hand over.
        """
        return 2 * (self.pipeline.segmenter.halo_px - seams.MARGIN_PX)

    def result(self, tile: Tile, view: SlideView) -> TileResult:
        """Find the cells of `tile` in `view`."""
        self.control.check()
        patch = self._read(view, self.grid, tile.read)
        blocks = tissue_blocks(patch, dark_field=self.dark_field)
        core_blocks = _core_blocks(blocks, tile)
        unstored_px = self._unstored_px(patch, tile, view)
        if not core_blocks.any():
            return self._nothing(tile, core_blocks, unstored_px)
        cells, owned, near_seam = self._own(self._cells(view, tile, patch), blocks, tile)
        if not len(cells):
            return self._nothing(tile, core_blocks, unstored_px)
        probabilities = cascade.classify(
            cells.centroids,
            self.pipeline,
            grids=self.grids,
            floors=self.thresholds,
            read=lambda grid, box: self._read(view, grid, box),
            run=self._run_classifier,
        )
        classified = cells.with_probabilities(*probabilities)
        return TileResult(tile.index, tile.core, core_blocks, classified, owned, near_seam, unstored_px)

    @property
    def aligned_to(self) -> int:
        """Spacing of the lattice of tiles: the network's stride and the tissue blocks both divide it."""
        return math.lcm(self.pipeline.segmenter.input.multiple_of, BLOCK_PX)

    @property
    def halo_px(self) -> int:
        """Pixels read around a core."""
        return -(-self.pipeline.segmenter.halo_px // self.aligned_to) * self.aligned_to

    @property
    def receptive_px(self) -> int:
        """How far the maps of a read box depend on where it ends."""
        return max(0, self.pipeline.segmenter.halo_px - EXACT_PX)

    def _read(self, view: SlideView, grid: Grid, box: Box) -> NDArray[np.uint8]:
        with self.stopwatch.measure("read"):
            return view.read(grid, box)

    def _run_classifier(self, model: ClassifierSpec, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.control.check()
        with self.stopwatch.measure("classify"):
            return self.runner.run(model.name, {model.input.name: images})["probabilities"]

    def _cells(self, view: SlideView, tile: Tile, patch: NDArray[np.uint8]) -> Instances:
        """The cells with a centroid in the core of `tile` or just outside, in pixels of the segmenter's grid."""
        look = self._look(patch, tile.read)
        undecided = self._undecided(look, tile)
        whole = whole_lattice(self.grid.size, self.aligned_to)
        if len(undecided) * SQUARE_PX[0] ** 2 > tile.read.area:
            # Cheaper than one by one: all of the tile from further away.
            wide = tile.core.inflated(2 * self.halo_px).clipped(whole)
            look = self._look(self._read(view, self.grid, wide), wide)
            undecided = self._undecided(look, tile)
        again = SecondLook(
            look=lambda box: self._look(self._read(view, self.grid, box), box),
            whole=whole,
            aligned_to=self.aligned_to,
            receptive_px=self.receptive_px,
        )
        seen = again.settle(look, undecided)
        reach = tile.core.inflated(seams.MARGIN_PX).clipped(self.grid.extent)
        with self.stopwatch.measure("decode"):
            parts = [one.look.cells(one.wanted, reach=reach, min_area_px=self._min_area_px) for one in seen]
            return Instances.concatenate(parts)

    def _undecided(self, look: Look, tile: Tile) -> NDArray[np.int64]:
        """The objects of `look` that are not decided and whose centroid may lie in the core of `tile`."""
        with self.stopwatch.measure("decode"):
            return np.flatnonzero(look.open() & look.near(tile.core)) + 1

    def _look(self, patch: NDArray[np.uint8], read: Box) -> Look:
        """What the segmenter sees in `patch`, which shows `read` of its grid."""
        segmenter = self.pipeline.segmenter
        self.control.check()
        with self.stopwatch.measure("segment"):
            answer = self.runner.run(segmenter.name, {segmenter.input.name: patch[None]})
        maps = answer["maps"][0]
        self.control.check()
        with self.stopwatch.measure("decode"):
            return look_at(
                maps,
                read,
                self.grid.extent,
                segmenter=segmenter,
                foreground=self.thresholds[segmenter.name],
                receptive_px=self.receptive_px,
                min_area_px=self._min_area_px,
                max_cell_px=self.max_cell_px,
            )

    @property
    def _min_area_px(self) -> float:
        return max(1.0, self.pipeline.segmenter.options.min_area_um2 / self.grid.mpp**2)

    def _own(
        self, found: Instances, blocks: NDArray[np.bool_], tile: Tile
    ) -> tuple[Instances, NDArray[np.bool_], NDArray[np.bool_]]:
        """Those on tissue and in the region, in level-0 pixels; which `tile` owns, and which are near a seam."""
        cells = found.take(_on_tissue(found.centroids, blocks, tile.read))
        in_l0 = cells.transformed(
            scale=self.grid.downsample, shift_x=self.grid.origin_x_l0, shift_y=self.grid.origin_y_l0
        )
        owned = tile.core.contains(cells.centroids)
        near_seam = ~_seam_free(tile.core, self.grid.extent).contains(cells.centroids)
        wanted = self.region_l0.contains(in_l0.centroids)
        return in_l0.take(wanted), owned[wanted], near_seam[wanted]

    def _unstored_px(self, patch: NDArray[np.uint8], tile: Tile, view: SlideView) -> float:
        """Asks the source only where the patch, which shows `tile.read`, has the pure white of unstored pixels."""
        left, top = tile.core.x - tile.read.x, tile.core.y - tile.read.y
        seen = patch[top : top + tile.core.height : _SEEN_PX, left : left + tile.core.width : _SEEN_PX]
        if not (seen == 255).all(axis=2).any():
            return 0.0
        with self.stopwatch.measure("read"):
            return view.unstored_share(self.grid, tile.core) * tile.core.area

    def _nothing(self, tile: Tile, core_blocks: NDArray[np.bool_], unstored_px: float) -> TileResult:
        none = np.zeros(0, np.bool_)
        empty = Instances.empty([len(stage.model.classes) for stage in self.pipeline.stages])
        return TileResult(tile.index, tile.core, core_blocks, empty, none, none, unstored_px)


def _core_blocks(blocks: NDArray[np.bool_], tile: Tile) -> NDArray[np.bool_]:
    """The blocks of the read box that touch the core; its corner lies on their lattice, its end need not."""
    left, top = (tile.core.x - tile.read.x) // BLOCK_PX, (tile.core.y - tile.read.y) // BLOCK_PX
    return blocks[top : top + -(-tile.core.height // BLOCK_PX), left : left + -(-tile.core.width // BLOCK_PX)]


def _on_tissue(centroids: NDArray[np.float64], blocks: NDArray[np.bool_], read: Box) -> NDArray[np.bool_]:
    """Which positions lie on a tissue block of the read box; what a network sees on glass is no cell."""
    places = ((centroids - (read.x, read.y)) // BLOCK_PX).astype(np.int64)
    on_tissue: NDArray[np.bool_] = blocks[places[:, 1], places[:, 0]]
    return on_tissue


def _seam_free(core: Box, extent: Box) -> Box:
    """The part of the core where no other tile's copy of a cell can lie; the region's edge is no seam.

    A copy is handed over up to one margin outside its tile's core, and its centroid may differ by as much again.
    """
    margin = 2 * seams.MARGIN_PX
    left = core.x + (margin if core.x > extent.x else 0)
    top = core.y + (margin if core.y > extent.y else 0)
    right = core.right - (margin if core.right < extent.right else 0)
    bottom = core.bottom - (margin if core.bottom < extent.bottom else 0)
    return Box(left, top, right - left, bottom - top)
