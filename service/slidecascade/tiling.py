"""Tiles over a region: which pixels a tile reads, and which cells it owns. Pure interval arithmetic.

The idea of one responsible tile per object is that of StarDist's ``big.py`` (Weigert et al.); here a cell
belongs to the tile whose core holds its centroid.
"""

from __future__ import annotations

from dataclasses import dataclass

from slidecascade.geometry import Box, Size

DEFAULT_TILE_PX = (1024, 512)
"""Tile sizes tried for a region, largest first: large tiles spend less on halos, small ones fill all cores."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of a region, in pixels of the segmenter's grid.

    Attributes:
        index: position in reading order (row by row), which is also the order of results.
        core: the half-open box whose centroids this tile owns; the cores partition the region.
        read: the pixels the network sees: the core and a halo, aligned to the network's stride. It may reach
            outside the region, where pixels are mirrored.
    """

    index: int
    core: Box
    read: Box


def cover(
    extent: Size, *, tile_px: int, halo_px: int, multiple_of: int, shift_x: int = 0, shift_y: int = 0
) -> tuple[Tile, ...]:
    """Tiles whose cores partition ``[0, width) x [0, height)``.

    Args:
        extent: the region in grid pixels.
        tile_px: greatest side of a core; rounded down to `multiple_of`.
        halo_px: pixels read around a core; a multiple of `multiple_of`.
        multiple_of: the network's stride. Every read box starts at a multiple of it, whatever the tile size,
            so that the network pools the same pixels together in every tiling.
        shift_x, shift_y: move the seams right and down by this much, rounded to `multiple_of`.

    Returns:
        Tiles row by row; all read boxes have one size unless the seams are shifted.
    """
    if halo_px % multiple_of:
        raise ValueError(f"The halo ({halo_px} px) must be a multiple of the stride ({multiple_of} px).")
    columns = _cuts(extent.width, tile_px, multiple_of, shift_x)
    rows = _cuts(extent.height, tile_px, multiple_of, shift_y)
    tiles: list[Tile] = []
    for top, bottom, read_bottom in rows:
        for left, right, read_right in columns:
            core = Box(left, top, right - left, bottom - top)
            read = Box(left, top, read_right - left, read_bottom - top).inflated(halo_px)
            tiles.append(Tile(len(tiles), core, read))
    return tuple(tiles)


def default_tile_px(extent: Size, workers: int) -> int:
    """The largest tile size that gives every worker at least two tiles, or else the smallest one."""
    for tile_px in DEFAULT_TILE_PX:
        tiles = -(-extent.width // tile_px) * -(-extent.height // tile_px)
        if tiles >= 2 * workers:
            return tile_px
    return DEFAULT_TILE_PX[-1]


def _cuts(length: int, tile_px: int, multiple_of: int, shift: int) -> list[tuple[int, int, int]]:
    """Start, end and read end (rounded up to the stride) of each interval along one axis."""
    longest = max(multiple_of, tile_px // multiple_of * multiple_of)
    count = -(-length // longest)
    # Equal intervals instead of a thin last one: less halo for the same number of tiles.
    step = _round_up(-(-length // count), multiple_of)
    first = shift // multiple_of * multiple_of % step
    starts = [0, *range(first or step, length, step)]
    ends = [*starts[1:], length]
    # An unshifted last interval reads as far as the others, so that all tiles have one shape.
    widths = [
        step if not first else _round_up(end - start, multiple_of) for start, end in zip(starts, ends, strict=True)
    ]
    return [(start, end, start + width) for start, end, width in zip(starts, ends, widths, strict=True)]


def _round_up(value: int, multiple_of: int) -> int:
    return -(-value // multiple_of) * multiple_of
