"""Tiles over a region: which pixels a tile reads, and which cells it owns. Pure interval arithmetic.

The idea of one responsible tile per object is that of StarDist's ``big.py`` (Weigert et al.); here a cell
belongs to the tile whose core holds its centroid.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from slidecascade.geometry import Box, Size

DEFAULT_TILE_PX = (1024, 896, 768, 640, 512)
"""Sides of tiles tried for a region: large tiles spend less on halos, small ones fill all cores."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of a slide, in pixels of the segmenter's grid.

    Attributes:
        index: position in reading order (row by row), which is also the order of results.
        core: the half-open box whose centroids this tile owns; the cores of a region partition it.
        read: the pixels the network sees: the core and a halo, aligned to the network's stride. It ends where the
            slide ends, or at the next multiple of the stride: pixels beyond the slide are mirrored.
    """

    index: int
    core: Box
    read: Box


def cover(
    needed: Box,
    extent: Size,
    *,
    tile_px: Size,
    halo_px: int,
    multiple_of: int,
    shift_x: int = 0,
    shift_y: int = 0,
) -> tuple[Tile, ...]:
    """Tiles whose cores partition `needed`, grown to the lattice of the slide.

    The lattice has one point every `multiple_of` pixels from the slide's corner on, and every core and read box
    lies on it, so that a network pools the same pixels together in every region and every tiling. Where the seams
    lie on it changes no cell; they are spread so that all tiles of a region have one shape.

    Only at the slide's own edge is there no halo, for there is nothing to see.

    Args:
        needed: the region, in pixels of the slide's grid.
        extent: the slide in grid pixels.
        tile_px: greatest width and height of a read box less two halos; rounded down to `multiple_of`.
        halo_px: pixels read around a core; a multiple of `multiple_of`.
        multiple_of: spacing of the lattice, a multiple of the network's stride.
        shift_x, shift_y: move the seams right and down by this much, rounded to `multiple_of`.

    Returns:
        Tiles row by row; all read boxes have one size unless the seams are shifted.
    """
    if halo_px % multiple_of:
        raise ValueError(f"The halo ({halo_px} px) must be a multiple of the stride ({multiple_of} px).")
    columns = _spans(needed.x, needed.right, extent.width, tile_px.width, halo_px, multiple_of, shift_x)
    rows = _spans(needed.y, needed.bottom, extent.height, tile_px.height, halo_px, multiple_of, shift_y)
    return tuple(
        Tile(index, *_box(column, row)) for index, (row, column) in enumerate(itertools.product(rows, columns))
    )


def whole_lattice(extent: Size, multiple_of: int) -> Box:
    """All that can be read of a slide: its pixels up to the next point of the lattice."""
    return Box(0, 0, _round_up(extent.width, multiple_of), _round_up(extent.height, multiple_of))


def default_tile_px(needed: Box, extent: Size, workers: int, *, halo_px: int, multiple_of: int) -> Size:
    """The tile size with which `workers` are done soonest, when work is proportional to the pixels read."""

    def pixels_in_turn(size: Size) -> int:
        columns = _spans(needed.x, needed.right, extent.width, size.width, halo_px, multiple_of, 0)
        rows = _spans(needed.y, needed.bottom, extent.height, size.height, halo_px, multiple_of, 0)
        turns = -(-len(columns) * len(rows) // workers)
        return turns * columns[0].read_px * rows[0].read_px

    sizes = (Size(*sides) for sides in itertools.product(DEFAULT_TILE_PX, DEFAULT_TILE_PX))
    return min(sizes, key=pixels_in_turn)


@dataclass(frozen=True, slots=True)
class _Span:
    """A tile along one axis: its core, and what it reads."""

    start: int
    end: int
    read_start: int
    read_end: int

    @property
    def read_px(self) -> int:
        return self.read_end - self.read_start


def _spans(
    start: int, end: int, length: int, tile_px: int, halo_px: int, multiple_of: int, shift: int
) -> list[_Span]:
    """The tiles of ``start..end`` along an axis of `length`; the last one reads further back, to be as long."""
    start, end = start // multiple_of * multiple_of, min(_round_up(end, multiple_of), length)
    first = max(0, start - halo_px)
    whole = min(_round_up(end, multiple_of) + halo_px, _round_up(length, multiple_of)) - first
    longest = max(multiple_of, tile_px // multiple_of * multiple_of)
    # The first halo and the last one are read, but by no other tile.
    count = max(1, -(-(whole - 2 * halo_px) // longest))
    step = max(multiple_of, _round_up(-(-(whole - 2 * halo_px) // count), multiple_of))
    side = min(whole, step + 2 * halo_px)
    moved = shift // multiple_of * multiple_of % step if side < whole else 0
    starts = [first + at for at in (*range(moved - step if moved else 0, whole - side, step), whole - side)]
    cuts = [start, *(max(start, at + halo_px) for at in starts[1:]), end]
    return [
        _Span(cut, next_cut, max(first, at), at + side)
        for at, cut, next_cut in zip(starts, cuts[:-1], cuts[1:], strict=True)
        if cut < next_cut
    ]


def _box(column: _Span, row: _Span) -> tuple[Box, Box]:
    """The core and the read box of a tile."""
    core = Box(column.start, row.start, column.end - column.start, row.end - row.start)
    return core, Box(column.read_start, row.read_start, column.read_px, row.read_px)


def _round_up(value: int, multiple_of: int) -> int:
    return -(-value // multiple_of) * multiple_of
