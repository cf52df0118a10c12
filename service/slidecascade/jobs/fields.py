"""A slide divided into fields: blocks of neighbouring tiles, each analysed as a whole and stored as a part.

A field is to the slide what a tile is to a region: it owns what its core holds, by the rule of
the pipeline's kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slidecascade.analysis.flow import AnyWork
from slidecascade.analysis.plan import RegionTask
from slidecascade.geometry import Box, Size
from slidecascade.slides.tiling import Tile, cover, default_tile_px

TILE_PX: Final = 1024
"""Greatest side of a tile's core; not chosen by the threads at hand, so that all workers cut the same fields."""

FIELD_TILES: Final = 4
"""Tiles of a field each way: 16 Mpx of that grid, seconds to a minute on a few cores."""


@dataclass(frozen=True, slots=True)
class Field:
    """A block of tiles, in pixels of the grid in which tiles are cut; `index` counts fields row by row."""

    index: int
    core: Box
    tiles: tuple[Tile, ...]


def plan_fields(
    task: RegionTask, work: AnyWork, *, threads: int, field_tiles: int = FIELD_TILES
) -> tuple[Field, ...]:
    """The fields of a task's region, whose cores partition it as those of tiles do.

    What fits into one field is cut as a region is, for the `threads` at hand.
    """
    side = task.tile_px or TILE_PX
    tiles = _tiles(task, work, Size(side, side))
    columns = sum(tile.core.y == tiles[0].core.y for tile in tiles)
    rows = len(tiles) // columns
    if task.tile_px is None and max(columns, rows) <= field_tiles:
        needed, halo_px = work.needed, work.halo_px
        best = default_tile_px(needed, work.grid.size, threads, halo_px=halo_px, multiple_of=work.aligned_to)
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
