"""The work on one tile: read, segment, decode, own, classify. A straight line; concurrency lives outside."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import cascade, seams, spots
from slidecascade.cells.coverage import Coverage, coverage
from slidecascade.cells.instances import Instances
from slidecascade.cells.look import Decoding, Look, look_at
from slidecascade.cells.second_look import SQUARE_PX, SecondLook, Seen
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.work import TileWork, core_blocks
from slidecascade.models.spec import ClassifierSpec
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.slides.flaws import Flaws
from slidecascade.slides.tiling import Tile, whole_lattice
from slidecascade.slides.tissue import BLOCK_PX
from slidecascade.slides.view import SlideView

SECOND_LOOKS = 2
"""Second looks read at most so many times the pixels of their tile."""

EXACT_PX = 28
"""So far around a core maps are exact: a model's `halo_px` is the radius of its receptive field and this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsWork(TileWork[CellsPipeline, TileResult]):
    """Read, segment, decode, own, classify.

    `thresholds` holds the foreground probability of the segmenter and the least class probability of each
    classifier.
    """

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
        patch = self.read(view, self.grid, tile.read)
        blocks = self.tissue(patch)
        unstored_px = self.unstored_px(patch, tile, view)
        blocks, flaws = self.without_flaws(patch, blocks, tile)
        # What is no glass is tissue in either field: which one it is need not be known before the network has run.
        if not core_blocks(blocks, tile).any() and not self.has_no_glass:
            return self._nothing(tile, core_blocks(blocks, tile), unstored_px, flaws, self._coverages(tile, view))
        found = self._cells(view, tile, patch)
        blocks |= self.has_no_glass
        tissue = core_blocks(blocks, tile)
        cells, owned, near_seam = self._own(found, blocks, tile)
        coverages = self._coverages(tile, view)
        if not len(cells):
            return self._nothing(tile, tissue, unstored_px, flaws, coverages)
        probabilities = cascade.classify(
            cells.centroids,
            self.pipeline,
            grids=self.grids,
            floors=self.thresholds,
            read=lambda grid, box: self.normalised(self.read(view, grid, box)),
            run=self._run_classifier,
        )
        classified = self._measured(cells.with_probabilities(*probabilities), view)
        return TileResult(
            tile.index,
            tile.core,
            tissue,
            classified,
            owned,
            near_seam,
            unstored_px=unstored_px,
            flaws=flaws,
            coverages=coverages,
        )

    def _coverages(self, tile: Tile, view: SlideView) -> tuple[Coverage, ...]:
        """What the companions of the pipeline cover, which have blocks of tissue of their own."""
        return tuple(coverage(fraction, self, tile, view) for fraction in self.pipeline.area_fractions)

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

    def _run_classifier(self, model: ClassifierSpec, images: NDArray[Any]) -> NDArray[np.float32]:
        return self.run(model, images)["probabilities"]

    def _cells(self, view: SlideView, tile: Tile, patch: NDArray[Any]) -> Instances:
        """The cells with a centroid in the core of `tile` or just outside, in pixels of the segmenter's grid."""
        first = Seen.nothing_of(self._look(patch, tile.read))
        whole = whole_lattice(self.grid.size, self.aligned_to)
        if len(first.undecided_in(tile.core)) * SQUARE_PX[0] ** 2 > tile.read.area:
            # Cheaper than one by one: all of the tile from further away.
            wide = tile.core.inflated(2 * self.halo_px).clipped(whole)
            first = Seen.nothing_of(self._look(self.read(view, self.grid, wide), wide))
        again = SecondLook(
            look=lambda box: self._look(self.read(view, self.grid, box), box),
            whole=whole,
            aligned_to=self.aligned_to,
            margin_px=self._decoding.margin_px,
            most_px=SECOND_LOOKS * max(tile.read.area, SQUARE_PX[-1] ** 2),
        )
        seen = again.settle(first, tile.core)
        reach = tile.core.inflated(seams.MARGIN_PX).clipped(self.grid.extent)
        with self.stopwatch.measure("decode"):
            parts = [one.look.cells(one.wanted, reach=reach, min_area_px=self._min_area_px) for one in seen]
            return Instances.concatenate(parts)

    def _look(self, patch: NDArray[Any], read: Box) -> Look:
        """What the segmenter sees in `patch`, which shows `read` of its grid."""
        segmenter = self.pipeline.segmenter
        # Channels that are only measured come last.
        seen = patch[..., : len(segmenter.input.channels)] if self.channels else self.normalised(patch)
        answer = self.run(segmenter, seen[None])
        outputs = {name: array[0] for name, array in answer.items()}
        self.control.check()
        with self.stopwatch.measure("decode"):
            return look_at(outputs, read, self.grid.extent, self._decoding)

    def _measured(self, cells: Instances, view: SlideView) -> Instances:
        """Cells in level-0 pixels with the measures of the pipeline."""
        option = self.pipeline.spots
        if option is None or not len(cells):
            return cells
        vertices = self.grid.grid_from_l0(cells.vertices)
        low = np.floor(vertices.min(axis=0)).astype(int) - spots.REACH_PX
        high = np.ceil(vertices.max(axis=0)).astype(int) + spots.REACH_PX
        box = Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
        counts = self.read(view, self.grid, box)[..., -1]
        with self.stopwatch.measure("decode"):
            in_box = replace(cells, vertices=vertices - low)
            return cells.with_measures(
                *spots.measure(in_box, counts, sigma_px=option.sigma_um / self.grid.mpp, snr=option.snr)
            )

    @property
    def _decoding(self) -> Decoding:
        segmenter = self.pipeline.segmenter
        return Decoding(
            head=self.pipeline.head,
            outputs=segmenter.outputs,
            options=segmenter.options.model_copy(update={"foreground": self.thresholds[segmenter.name]}),
            mpp=self.grid.mpp,
            receptive_px=self.receptive_px,
            max_cell_px=self.max_cell_px,
        )

    @property
    def _min_area_px(self) -> float:
        return self.pipeline.segmenter.options.min_area_px(self.grid.mpp)

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

    def _nothing(
        self,
        tile: Tile,
        tissue: NDArray[np.bool_],
        unstored_px: float,
        flaws: Flaws,
        coverages: tuple[Coverage, ...],
    ) -> TileResult:
        none = np.zeros(0, np.bool_)
        return TileResult(
            tile.index,
            tile.core,
            tissue,
            no_cells(self.pipeline),
            none,
            none,
            unstored_px=unstored_px,
            flaws=flaws,
            coverages=coverages,
        )


def no_cells(pipeline: CellsPipeline) -> Instances:
    """No cells, with the columns that those of `pipeline` have."""
    classes = [len(stage.model.classes) for stage in pipeline.stages]
    return Instances.empty(classes, measures=len(pipeline.measures))


def _on_tissue(centroids: NDArray[np.float64], blocks: NDArray[np.bool_], read: Box) -> NDArray[np.bool_]:
    """Which positions lie on a tissue block of the read box; objects on glass are not cells."""
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
