"""A slide cut into fields: blocks of neighbouring tiles, each worked on as a whole and kept as a part.

A field is to the slide what a tile is to a region: it owns the cells whose centroid lies in its core. Tiles hand
over cells just outside their cores; those outside the field's core are kept beside the part, and `collect` settles
them with the neighbours by the rule of `cells/seams.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.flow import AnyWork
from slidecascade.analysis.plan import RegionTask
from slidecascade.cells import cascade, seams
from slidecascade.cells.instances import Instances
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box, Grid, Size
from slidecascade.kinds.tile_result import TileFailure
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.slides.tiling import Tile, cover, default_tile_px
from slidecascade.slides.tissue import BLOCK_PX

TILE_PX: Final = 1024
"""Greatest side of a tile's core; not chosen by the threads at hand, so that all workers cut the same fields."""

FIELD_TILES: Final = 4
"""Tiles of a field each way: 16 Mpx of the segmenter's grid, seconds to a minute on a few cores."""


@dataclass(frozen=True, slots=True)
class Field:
    """A block of tiles, in pixels of the segmenter's grid; `index` counts fields row by row."""

    index: int
    core: Box
    tiles: tuple[Tile, ...]


def plan_fields(
    task: RegionTask, work: AnyWork, *, threads: int, field_tiles: int = FIELD_TILES
) -> tuple[Field, ...]:
    """The fields of a task's region, whose cores partition it as those of tiles do.

    What fits into one field is cut as a region is, for the `threads` at hand, but not into larger tiles: they take
    more memory, and are not faster.
    """
    side = task.tile_px or TILE_PX
    tiles = _tiles(task, work, Size(side, side))
    columns = sum(tile.core.y == tiles[0].core.y for tile in tiles)
    rows = len(tiles) // columns
    if task.tile_px is None and max(columns, rows) <= field_tiles:
        needed, halo_px = work.needed, work.halo_px
        best = default_tile_px(needed, work.grid.size, threads, halo_px=halo_px, multiple_of=work.aligned_to)
        if best.area < TILE_PX**2:
            tiles = _tiles(task, work, best)
        return (Field(0, _around(tiles), tiles),)
    blocks = [
        [
            tiles[row * columns + column]
            for row in range(top, min(top + field_tiles, rows))
            for column in range(left, min(left + field_tiles, columns))
        ]
        for top in range(0, rows, field_tiles)
        for left in range(0, columns, field_tiles)
    ]
    return tuple(Field(index, _around(block), tuple(block)) for index, block in enumerate(blocks))


def _tiles(task: RegionTask, work: AnyWork, tile_px: Size) -> tuple[Tile, ...]:
    return cover(
        work.needed,
        work.grid.size,
        tile_px=tile_px,
        halo_px=work.halo_px,
        multiple_of=work.aligned_to,
        shift_x=task.shift[0],
        shift_y=task.shift[1],
    )


def _around(tiles: Sequence[Tile]) -> Box:
    first, last = tiles[0].core, tiles[-1].core
    return Box(first.x, first.y, last.right - first.x, last.bottom - first.y)


@dataclass(frozen=True, slots=True)
class FieldResult:
    """What one field gave.

    Attributes:
        cells: those the field owns, from top to bottom, in level-0 pixels.
        class_index: ``(N,)`` the class each of them ends in.
        at_edge: ``(N,)`` the cells so near to a neighbouring field that it may have found them too.
        edge: the tissue of the field's core, its unstored pixels, and the cells its tiles handed over.
        seen_px: pixels of the region that were analysed, in the segmenter's grid.
        tiles, background: how many tiles there were, and how many of them held glass only.
        failures: the tiles that failed twice.
    """

    field: Field
    cells: Instances
    class_index: NDArray[np.int64]
    at_edge: NDArray[np.bool_]
    edge: TileResult
    seen_px: int
    background: int
    failures: tuple[TileFailure, ...]


class FieldSink:
    """Takes the tiles of one field.

    Args:
        grid: the segmenter's.
        region: what is analysed, in pixels of that grid.
    """

    def __init__(self, field: Field, pipeline: CellsPipeline, grid: Grid, *, region: Box) -> None:
        self._field = field
        self._pipeline = pipeline
        self._grid = grid
        self._region = region
        self._results: list[TileResult] = []
        self._failures: list[TileFailure] = []

    def take(self, result: TileResult, /) -> None:
        self._results.append(result)

    def fail(self, failure: TileFailure, /) -> None:
        self._failures.append(failure)

    def result(self, thresholds: Mapping[str, float]) -> FieldResult:
        """The field's cells once, whatever tiles they were found in."""
        cells, owned, near_seam = self._settled()
        order = np.lexsort((cells.centroids[:, 0], cells.centroids[:, 1]))
        mine, others = order[owned[order]], order[~owned[order]]
        kept, handed = cells.take(mine), cells.take(others)
        return FieldResult(
            field=self._field,
            cells=kept,
            class_index=cascade.final_classes(kept.probabilities, self._pipeline, thresholds, len(kept)),
            at_edge=near_seam[mine] & self._is_at_edge(kept),
            edge=TileResult(
                index=self._field.index,
                core=self._field.core,
                tissue=self._tissue(),
                cells=handed,
                owned=np.zeros(len(handed), np.bool_),
                near_seam=np.ones(len(handed), np.bool_),
                unstored_px=sum(result.unstored_px for result in self._results),
            ),
            seen_px=sum(result.core.clipped(self._region).area for result in self._results),
            background=sum(result.is_background for result in self._results),
            failures=tuple(self._failures),
        )

    def _settled(self) -> tuple[Instances, NDArray[np.bool_], NDArray[np.bool_]]:
        """The cells that no other tile of the field has a better claim to, and their two masks."""
        nothing = np.zeros(0, np.bool_)
        empty = Instances.empty([len(stage.model.classes) for stage in self._pipeline.stages])
        cells = Instances.concatenate([empty, *(result.cells for result in self._results)])
        owned = np.concatenate([nothing, *(result.owned for result in self._results)])
        near_seam = np.concatenate([nothing, *(result.near_seam for result in self._results)])
        indices = [result.index for result in self._results]
        keep = seams.settle(
            cells.centroids,
            cells.areas,
            tile_index=np.repeat(indices, [len(result.cells) for result in self._results]).astype(np.int64),
            owned=owned,
            near_seam=near_seam,
        )
        return cells.take(keep), owned[keep], near_seam[keep]

    def _is_at_edge(self, cells: Instances) -> NDArray[np.bool_]:
        margin = 2 * seams.MARGIN_PX + 1  # one more, for the way from level 0 back to the grid rounds
        core = self._field.core
        inner = Box(core.x + margin, core.y + margin, core.width - 2 * margin, core.height - 2 * margin)
        return ~inner.contains(self._grid.grid_from_l0(cells.centroids))

    def _tissue(self) -> NDArray[np.bool_]:
        core = self._field.core
        mask = np.zeros((-(-core.height // BLOCK_PX), -(-core.width // BLOCK_PX)), np.bool_)
        for result in self._results:
            rows, columns = result.tissue.shape
            top, left = (result.core.y - core.y) // BLOCK_PX, (result.core.x - core.x) // BLOCK_PX
            mask[top : top + rows, left : left + columns] = result.tissue
        return mask
