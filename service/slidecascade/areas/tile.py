"""The work on one tile: read, run the network, divide its mask into pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.runs import Runs
from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.work import TileWork, core_blocks
from slidecascade.pipelines.areas import AreasPipeline
from slidecascade.slides.flaws import MARGIN_PX, Flaws
from slidecascade.slides.tiling import Tile
from slidecascade.slides.tissue import BLOCK_PX, tissue_blocks
from slidecascade.slides.view import SlideView

SQUARE_PX = 128
"""Side of the squares, counted from the slide's corner, that are looked at when they hold tissue and blank
otherwise.

Coarser than the blocks of tissue, so that what is white inside an area stays in it.
"""


@dataclass(frozen=True, slots=True)
class _Pieces:
    """As in `AreasTileResult`; the first `painted` pieces have their runs."""

    runs: Runs
    classes: NDArray[np.int64]
    sums: NDArray[np.int64]
    is_inside: NDArray[np.bool_]
    edges: int
    painted: int

    @classmethod
    def none(cls) -> _Pieces:
        nothing = np.zeros(0, np.int64)
        return cls(Runs.concatenate(), nothing, nothing, nothing > 0, 0, 0)

    def with_pieces(self, number: int, sums: NDArray[np.int64], *, is_inside: bool) -> _Pieces:
        """And the pieces of class `number`."""
        return replace(
            self,
            classes=np.append(self.classes, np.full(len(sums), number)).astype(np.int64),
            sums=np.append(self.sums, sums),
            is_inside=np.append(self.is_inside, np.full(len(sums), is_inside)),
        )

    def with_runs(self, runs: Runs, edges: int) -> _Pieces:
        """And the runs of the pieces that were added since the last time."""
        numbered = runs.labelled(runs.labels + self.painted)
        return replace(
            self,
            runs=Runs.concatenate(self.runs, numbered),
            edges=self.edges + edges,
            painted=len(self.classes),
        )


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
        blocks, flaws = self.without_flaws(patch, tissue_blocks(patch, dark_field=self.dark_field), tile)
        tissue = core_blocks(blocks, tile)
        unstored_px = self.unstored_px(patch, tile, view)
        if not tissue.any():
            return _result(tile, tissue, _Pieces.none(), unstored_px, flaws)
        masks, probabilities = self._masks(patch, tile, tissue)
        with self.stopwatch.measure("decode"):
            return _result(tile, tissue, self._pieces(masks, probabilities, tile.core), unstored_px, flaws)

    def _masks(
        self, patch: NDArray[np.uint8], tile: Tile, tissue: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The classes of the core's pixels, counted from 1, ``(L, h, w)``, and their probabilities if stated."""
        segmenter, head = self.pipeline.segmenter, self.pipeline.head
        options = segmenter.options.model_copy(update={"foreground": self.thresholds[segmenter.name]})
        outputs = {name: array[0] for name, array in self.run(segmenter, self.normalised(patch)[None]).items()}
        self.control.check()
        core = tile.core.shifted(-tile.read.x, -tile.read.y)
        window = np.s_[core.y : core.bottom, core.x : core.right]
        with self.stopwatch.measure("decode"):
            masks = head.masks(outputs, options)[:, *window]
            probabilities = head.probabilities_of(outputs, options)
            kept = np.where(squares_with(tissue, masks.shape[1:]), masks, np.uint8(0))
            return kept, None if probabilities is None else probabilities[window]

    def _pieces(self, masks: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None, core: Box) -> _Pieces:
        found = _Pieces.none()
        for layer in masks:
            labels = np.zeros(layer.shape, np.int32)
            for part, is_inside in self._sides(layer, core):
                for number in np.flatnonzero(np.bincount(part.ravel(), minlength=1)[1:]).tolist():
                    chosen = cv2.compare(part, number + 1, cv2.CMP_EQ)
                    count, numbers = cv2.connectedComponents(chosen, connectivity=4, ltype=cv2.CV_32S)
                    covered = np.flatnonzero(chosen)
                    pieces = numbers.ravel()[covered]
                    labels.ravel()[covered] = pieces + (len(found.classes) - found.painted)
                    probability = None if probabilities is None else probabilities[..., number].ravel()[covered]
                    found = found.with_pieces(number, _sums(pieces, count, probability), is_inside=is_inside)
            found = found.with_runs(Runs.of_labels(labels, x=core.x, y=core.y), _edges(labels))
        return found

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


def _result(
    tile: Tile, tissue: NDArray[np.bool_], pieces: _Pieces, unstored_px: float, flaws: Flaws
) -> AreasTileResult:
    return AreasTileResult(
        tile.index,
        tile.core,
        tissue,
        pieces.runs,
        pieces.classes,
        pieces.sums,
        pieces.is_inside,
        pieces.edges,
        unstored_px=unstored_px,
        flaws=flaws,
    )


def _edges(labels: NDArray[np.int32]) -> int:
    """Sides inside of ``(h, w)`` at which labels change."""
    across = np.count_nonzero(labels[:, 1:] != labels[:, :-1])
    return int(across + np.count_nonzero(labels[1:] != labels[:-1]))


def _sums(pieces: NDArray[np.int32], count: int, probability: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """``(count - 1,)``: sums of `probability` ``(N,)`` by piece ``(N,)``, from 1; whole, so in any order."""
    if probability is None:
        return np.zeros(count - 1, np.int64)
    totals = np.bincount(pieces, weights=probability, minlength=count)
    return totals[1:].astype(np.int64)


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
    x, right = (pixels_before(at, grid.origin_x_l0, grid.downsample) for at in (region_l0.x, region_l0.right))
    y, bottom = (pixels_before(at, grid.origin_y_l0, grid.downsample) for at in (region_l0.y, region_l0.bottom))
    return Box(x, y, right - x, bottom - y).clipped(grid.extent)


def pixels_before(at_l0: float, origin_l0: float, downsample: float) -> int:
    """How many pixels of an axis have their middle before `at_l0`."""
    return max(0, math.ceil((at_l0 - origin_l0) / downsample - 0.5))


def squares_with(blocks: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of `shape`, true in squares of `SQUARE_PX` that hold one of the `blocks`."""
    each = SQUARE_PX // BLOCK_PX
    rows, columns = (-(-length // each) for length in blocks.shape)
    whole = np.zeros((rows * each, columns * each), np.bool_)
    whole[: blocks.shape[0], : blocks.shape[1]] = blocks
    held = whole.reshape(rows, each, columns, each).any(axis=(1, 3))
    mask: NDArray[np.bool_] = held.repeat(SQUARE_PX, axis=0).repeat(SQUARE_PX, axis=1)[: shape[0], : shape[1]]
    return mask
