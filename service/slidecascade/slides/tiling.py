"""Tiles over a region: which pixels a tile reads, and which cells it owns. Pure interval arithmetic.

The idea of one responsible tile per object is that of StarDist's ``big.py`` (Weigert et al.); here a cell
belongs to the tile whose core holds its centroid.
"""

from __future__ import annotations

from dataclasses import dataclass

from slidecascade.geometry import Box, Size

DEFAULT_TILE_PX = (1024, 896, 768, 640, 512)
"""Tile sizes tried for a region, largest first: large tiles spend less on halos, small ones fill all cores."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of a region, in pixels of the segmenter's grid.

    Attributes:
        index: position in reading order (row by row), which is also the order of results.
        core: the half-open box whose centroids this tile owns; the cores partition the region.
        read: the pixels the network sees: the core and a halo, aligned to the network's stride. It ends where the
            region ends, or at the next multiple of the stride: pixels beyond the region are mirrored.
        wide: the same with twice the halo, for a second look.
    """

    index: int
    core: Box
    read: Box
    wide: Box


def cover(
    extent: Size, *, tile_px: int, halo_px: int, multiple_of: int, shift_x: int = 0, shift_y: int = 0
) -> tuple[Tile, ...]:
    """Tiles whose cores partition ``[0, width) x [0, height)``.

    At the region's edge there is no halo, for there is nothing to see: networks are given all of the region and no
    more, however it is cut. What a network makes of an edge is thus the same in every tiling.

    Args:
        extent: the region in grid pixels.
        tile_px: greatest side of a read box less two halos; rounded down to `multiple_of`.
        halo_px: pixels read around a core; a multiple of `multiple_of`.
        multiple_of: the network's stride. Every read box starts at a multiple of it, whatever the tile size,
            so that the network pools the same pixels together in every tiling.
        shift_x, shift_y: move the seams right and down by this much, rounded to `multiple_of`.

    Returns:
        Tiles row by row; all read boxes have one size unless the seams are shifted.
    """
    if halo_px % multiple_of:
        raise ValueError(f"The halo ({halo_px} px) must be a multiple of the stride ({multiple_of} px).")
    whole = Box(0, 0, _round_up(extent.width, multiple_of), _round_up(extent.height, multiple_of))
    columns = _spans(extent.width, tile_px, halo_px, multiple_of, shift_x)
    rows = _spans(extent.height, tile_px, halo_px, multiple_of, shift_y)
    tiles: list[Tile] = []
    for row in rows:
        for column in columns:
            core = Box(column.start, row.start, column.end - column.start, row.end - row.start)
            read = Box(
                column.read_start,
                row.read_start,
                column.read_end - column.read_start,
                row.read_end - row.read_start,
            )
            tiles.append(Tile(len(tiles), core, read, core.inflated(2 * halo_px).clipped(whole)))
    return tuple(tiles)


def default_tile_px(extent: Size, workers: int, *, halo_px: int) -> int:
    """The largest tile size that gives every worker at least two tiles, or else the smallest one."""
    for tile_px in DEFAULT_TILE_PX:
        if _count(extent.width, tile_px, halo_px) * _count(extent.height, tile_px, halo_px) >= 2 * workers:
            return tile_px
    return DEFAULT_TILE_PX[-1]


@dataclass(frozen=True, slots=True)
class _Span:
    """A tile along one axis: its core, and what it reads."""

    start: int
    end: int
    read_start: int
    read_end: int


def _spans(length: int, tile_px: int, halo_px: int, multiple_of: int, shift: int) -> list[_Span]:
    """The tiles along an axis; the last one reads further back, so that it has the size of the others."""
    whole = _round_up(length, multiple_of)
    longest = max(multiple_of, tile_px // multiple_of * multiple_of)
    count = _count(whole, longest, halo_px)
    step = max(multiple_of, _round_up(-(-(whole - 2 * halo_px) // count), multiple_of))
    side = min(whole, step + 2 * halo_px)
    first = shift // multiple_of * multiple_of % step if side < whole else 0
    starts = [*range(first - step if first else 0, whole - side, step), whole - side]
    cuts = [0, *(start + halo_px for start in starts[1:]), length]
    return [
        _Span(cut, next_cut, max(0, start), start + side)
        for start, cut, next_cut in zip(starts, cuts[:-1], cuts[1:], strict=True)
    ]


def _count(length: int, tile_px: int, halo_px: int) -> int:
    """How many tiles there are along an axis: its first and its last halo are inside the region."""
    return max(1, -(-(length - 2 * halo_px) // tile_px))


def _round_up(value: int, multiple_of: int) -> int:
    return -(-value // multiple_of) * multiple_of
