"""The work on one tile: read, segment, decode, own, classify. A straight line; concurrency lives outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.cancellation import Control
from slidecascade.cells import cascade, outlines, seams
from slidecascade.cells.decoding import decode
from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box, Grid
from slidecascade.pipelines.load import Pipeline
from slidecascade.runners.runner import Runner
from slidecascade.slides.region import RegionView
from slidecascade.slides.tiling import Tile
from slidecascade.slides.tissue import BLOCK_PX, tissue_blocks
from slidecascade.timing import Stopwatch

_SEEN_PX = 16
"""Distance of the pixels looked at for the white of what is not stored: files store tiles of 64 px or more."""


@dataclass(frozen=True, slots=True)
class TileFindings:
    """What a tile found.

    Attributes:
        tissue: ``(h, w)`` bool, the tissue blocks of the core.
        cells: in level-0 pixels; the tile's own, and those just over a seam.
        owned, near_seam: ``(N,)`` masks over `cells`, for `seams.settle`.
        unstored_px: pixels of the core, in the segmenter's grid, for which the source stores nothing.
    """

    tissue: NDArray[np.bool_]
    cells: Instances
    owned: NDArray[np.bool_]
    near_seam: NDArray[np.bool_]
    unstored_px: float


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Objects of a patch: labels ``(H, W)`` and foreground map of `read`, and the labels it cuts."""

    labels: NDArray[np.int32]
    foreground: NDArray[np.uint8]
    read: Box
    on_cut_sides: NDArray[np.int32]

    def cuts_into(self, core: Box) -> bool:
        """Whether an object that the patch cuts reaches into `core`."""
        if not len(self.on_cut_sides):
            return False
        # An object is of one piece, so on its way into the core it lies on the outermost pixels of the core.
        left, top = core.x - self.read.x, core.y - self.read.y
        inside = self.labels[top : top + core.height, left : left + core.width]
        outermost = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        return bool(np.isin(self.on_cut_sides, outermost).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWork:
    """Everything the tiles of a region share.

    `grids` holds the pixel grid of every model by name; `thresholds` the foreground probability of the
    segmenter and the least class probability of each classifier, by name.
    """

    pipeline: Pipeline
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

    def findings(self, tile: Tile, view: RegionView) -> TileFindings:
        """Find the cells of `tile` in `view`."""
        self.control.check()
        patch = self._read(view, self.grid, tile.read)
        blocks = tissue_blocks(patch, dark_field=self.dark_field)
        core_blocks = _core_blocks(blocks, tile)
        unstored_px = self._unstored_px(patch, tile, view)
        if not core_blocks.any():
            return self._nothing(core_blocks, unstored_px)
        labelled = self._label(patch, tile.read)
        if labelled.cuts_into(tile.core):
            # Something in the core is longer than the halo: look again, from further away.
            labelled = self._label(self._read(view, self.grid, tile.wide), tile.wide)
        cells, owned, near_seam = self._own(labelled, blocks, tile)
        if not len(cells):
            return self._nothing(core_blocks, unstored_px)
        probabilities = cascade.classify(
            cells.centroids,
            self.pipeline,
            grids=self.grids,
            floors=self.thresholds,
            read=lambda grid, box: self._read(view, grid, box),
            run=self._run_classifier,
        )
        classified = cells.with_probabilities(*probabilities)
        return TileFindings(core_blocks, classified, owned, near_seam, unstored_px)

    def _read(self, view: RegionView, grid: Grid, box: Box) -> NDArray[np.uint8]:
        with self.stopwatch.measure("read"):
            return view.read(grid, box)

    def _run_classifier(self, model: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.control.check()
        with self.stopwatch.measure("classify"):
            return self.runner.run(model, images)

    def _label(self, patch: NDArray[np.uint8], read: Box) -> _Labelled:
        """The objects in `patch`, which shows `read` of the segmenter's grid."""
        segmenter = self.pipeline.segmenter
        self.control.check()
        with self.stopwatch.measure("segment"):
            maps = self.runner.run(segmenter.name, patch[None])[0]
        self.control.check()
        with self.stopwatch.measure("decode"):
            # Before decoding: a mirror image could close a bay at the region's edge, depending on the halo.
            _clear_outside(maps, read, self.grid.extent)
            labels = decode(
                maps,
                segmenter.head,
                segmenter.options,
                foreground=self.thresholds[segmenter.name],
                min_area_px=self._min_area_px,
            )
            return _Labelled(labels, maps[:, :, 0], read, _on_cut_sides(labels, read, self.grid.extent))

    @property
    def _min_area_px(self) -> float:
        return max(1.0, self.pipeline.segmenter.options.min_area_um2 / self.grid.mpp**2)

    def _own(
        self, labelled: _Labelled, blocks: NDArray[np.bool_], tile: Tile
    ) -> tuple[Instances, NDArray[np.bool_], NDArray[np.bool_]]:
        """Cells in level-0 pixels that this tile owns or that lie just over a seam; which are owned, near one."""
        with self.stopwatch.measure("decode"):
            extent, read = self.grid.extent, labelled.read
            measures = outlines.measure(labelled.labels, labelled.foreground, origin=(read.x, read.y))
            reach = tile.core.inflated(seams.MARGIN_PX).clipped(extent)
            keep = reach.contains(measures.centroids) & (measures.areas >= self._min_area_px)
            keep[labelled.on_cut_sides - 1] = False  # after a second look these are no cells, or not this tile's
            keep[keep] = _on_tissue(measures.centroids[keep], blocks, tile.read)
            found = outlines.trace(labelled.labels, measures, keep)
            in_grid = found.take(found.extents.max(axis=1, initial=0.0) <= self.max_cell_px)
            in_l0 = in_grid.transformed(
                scale=self.grid.downsample, shift_x=self.grid.origin_x_l0, shift_y=self.grid.origin_y_l0
            )
            owned = tile.core.contains(in_grid.centroids)
            near_seam = ~_seam_free(tile.core, extent).contains(in_grid.centroids)
            return in_l0, owned, near_seam

    def _unstored_px(self, patch: NDArray[np.uint8], tile: Tile, view: RegionView) -> float:
        """Asks the source only where the patch, which shows `tile.read`, has the pure white of unstored pixels."""
        left, top = tile.core.x - tile.read.x, tile.core.y - tile.read.y
        seen = patch[top : top + tile.core.height : _SEEN_PX, left : left + tile.core.width : _SEEN_PX]
        if not (seen == 255).all(axis=2).any():
            return 0.0
        with self.stopwatch.measure("read"):
            return view.unstored_share(self.grid, tile.core) * tile.core.area

    def _nothing(self, core_blocks: NDArray[np.bool_], unstored_px: float) -> TileFindings:
        none = np.zeros(0, np.bool_)
        empty = Instances.empty([len(stage.model.classes) for stage in self.pipeline.stages])
        return TileFindings(core_blocks, empty, none, none, unstored_px)


def _core_blocks(blocks: NDArray[np.bool_], tile: Tile) -> NDArray[np.bool_]:
    """The blocks of the read box that touch the core; its corner lies on their lattice, its end need not."""
    left, top = (tile.core.x - tile.read.x) // BLOCK_PX, (tile.core.y - tile.read.y) // BLOCK_PX
    return blocks[top : top + -(-tile.core.height // BLOCK_PX), left : left + -(-tile.core.width // BLOCK_PX)]


def _on_tissue(centroids: NDArray[np.float64], blocks: NDArray[np.bool_], read: Box) -> NDArray[np.bool_]:
    """Which positions lie on a tissue block of the read box; what a network sees on glass is no cell."""
    places = ((centroids - (read.x, read.y)) // BLOCK_PX).astype(np.int64)
    on_tissue: NDArray[np.bool_] = blocks[places[:, 1], places[:, 0]]
    return on_tissue


def _clear_outside(maps: NDArray[np.uint8], read: Box, extent: Box) -> None:
    """Erase what lies outside the region: there the pixels were mirror images."""
    inside = extent.shifted(-read.x, -read.y).clipped(Box(0, 0, read.width, read.height))
    maps[: inside.y] = 0
    maps[inside.bottom :] = 0
    maps[:, : inside.x] = 0
    maps[:, inside.right :] = 0


def _on_cut_sides(labels: NDArray[np.int32], read: Box, extent: Box) -> NDArray[np.int32]:
    """Labels on those sides of the read box beyond which the region goes on."""
    sides = [
        labels[:, 0] if read.x > extent.x else None,
        labels[:, -1] if read.right < extent.right else None,
        labels[0] if read.y > extent.y else None,
        labels[-1] if read.bottom < extent.bottom else None,
    ]
    found = np.unique(np.concatenate([np.zeros(1, np.int32), *(side for side in sides if side is not None)]))
    return found[1:]  # less the background


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
