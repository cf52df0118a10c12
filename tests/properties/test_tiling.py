"""Cores partition any region of a slide, and exactly one tile owns any position."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidecascade.geometry import Box, Size
from slidecascade.slides.tiling import DEFAULT_TILE_PX, cover, default_tile_px, whole_lattice

SIZES = st.builds(Size, st.integers(1, 3000), st.integers(1, 3000))
STRIDES = st.sampled_from([1, 8, 16, 32])
TILES = st.builds(Size, st.integers(64, 1500), st.integers(64, 1500))
SHIFTS = st.integers(0, 2000)


@st.composite
def places(draw: st.DrawFn) -> tuple[Size, Box]:
    """A slide and a region in it."""
    extent = draw(SIZES)
    x, y = draw(st.integers(0, extent.width - 1)), draw(st.integers(0, extent.height - 1))
    return extent, Box(x, y, draw(st.integers(1, extent.width - x)), draw(st.integers(1, extent.height - y)))


def grown(needed: Box, extent: Size, stride: int) -> Box:
    """The region up to the next points of the slide's lattice."""
    x, y = needed.x // stride * stride, needed.y // stride * stride
    right = min(-(-needed.right // stride) * stride, extent.width)
    return Box(x, y, right - x, min(-(-needed.bottom // stride) * stride, extent.height) - y)


@given(
    place=places(),
    stride=STRIDES,
    tile_px=TILES,
    halo=st.integers(0, 12),
    shift_x=SHIFTS,
    shift_y=SHIFTS,
)
def test_cores_partition_the_region(
    place: tuple[Size, Box], stride: int, tile_px: Size, halo: int, shift_x: int, shift_y: int
) -> None:
    """Every pixel of a region lies in exactly one core, and every core has pixels and starts on the lattice."""
    extent, needed = place
    tiles = cover(
        needed,
        extent,
        tile_px=tile_px,
        halo_px=halo * stride,
        multiple_of=stride,
        shift_x=shift_x,
        shift_y=shift_y,
    )
    whole = grown(needed, extent, stride)
    assert sum(tile.core.area for tile in tiles) == whole.area
    assert all(tile.core.width > 0 and tile.core.height > 0 and whole.encloses(tile.core) for tile in tiles)
    assert all(tile.core.x % stride == tile.core.y % stride == 0 for tile in tiles)
    xs = sorted({tile.core.x for tile in tiles})
    ys = sorted({tile.core.y for tile in tiles})
    # Cores that start on a lattice and add up to the region overlap nowhere when each ends where the next starts.
    ends_x = dict(zip(xs, [*xs[1:], whole.right], strict=True))
    ends_y = dict(zip(ys, [*ys[1:], whole.bottom], strict=True))
    assert all(tile.core.right == ends_x[tile.core.x] for tile in tiles)
    assert all(tile.core.bottom == ends_y[tile.core.y] for tile in tiles)
    assert [tile.index for tile in tiles] == list(range(len(tiles)))


@given(
    place=places(),
    stride=STRIDES,
    tile_px=TILES,
    shift=SHIFTS,
    parts=st.lists(st.tuples(st.floats(0, 0.999999), st.floats(0, 0.999999)), min_size=1, max_size=50),
)
def test_exactly_one_tile_owns_a_position(
    place: tuple[Size, Box], stride: int, tile_px: Size, shift: int, parts: list[tuple[float, float]]
) -> None:
    """Any position inside the region, on seams too, is owned once."""
    extent, needed = place
    tiles = cover(needed, extent, tile_px=tile_px, halo_px=0, multiple_of=stride, shift_x=shift, shift_y=shift)
    points = np.array(parts) * [needed.width, needed.height] + [needed.x, needed.y]
    corners = np.array([[tile.core.x, tile.core.y] for tile in tiles], np.float64)
    points = np.concatenate([points, corners])
    owners = np.sum([tile.core.contains(points) for tile in tiles], axis=0)
    assert (owners == 1).all()


@given(place=places(), stride=STRIDES, tile_px=TILES, halo=st.integers(0, 12), shift=SHIFTS)
def test_read_boxes_keep_the_networks_phase(
    place: tuple[Size, Box], stride: int, tile_px: Size, halo: int, shift: int
) -> None:
    """Read boxes start and end on the slide's lattice and hold the core with its halo inside the slide."""
    extent, needed = place
    halo_px = halo * stride
    whole = whole_lattice(extent, stride)
    for tile in cover(needed, extent, tile_px=tile_px, halo_px=halo_px, multiple_of=stride, shift_x=shift):
        assert tile.read.x % stride == tile.read.y % stride == 0
        assert tile.read.width % stride == tile.read.height % stride == 0
        assert whole.encloses(tile.read)
        assert tile.read.encloses(tile.core.inflated(halo_px).clipped(whole))
        assert tile.read.width <= max(stride, tile_px.width) + 2 * halo_px
        assert tile.read.height <= max(stride, tile_px.height) + 2 * halo_px


@given(place=places(), stride=STRIDES, tile_px=TILES)
def test_unshifted_tiles_have_one_shape(place: tuple[Size, Box], stride: int, tile_px: Size) -> None:
    """Tiles of one shape can be run as one batch."""
    extent, needed = place
    tiles = cover(needed, extent, tile_px=tile_px, halo_px=stride, multiple_of=stride)
    assert len({tile.read.size for tile in tiles}) == 1


@given(place=places(), halo=st.integers(0, 12))
def test_a_small_region_reads_itself_and_the_halo_only(place: tuple[Size, Box], halo: int) -> None:
    """A region inside one tile costs its own pixels, up to the lattice, and one halo around them."""
    extent, needed = place
    (tile,) = cover(needed, extent, tile_px=Size(4096, 4096), halo_px=8 * halo, multiple_of=8)
    whole = whole_lattice(extent, 8)
    assert tile.read == grown(needed, whole.size, 8).inflated(8 * halo).clipped(whole)


@pytest.mark.parametrize(
    ("needed", "workers", "side"),
    [
        (Box(0, 0, 10_000, 10_000), 2, (1024, 1024)),
        (Box(0, 0, 1024, 1024), 2, (1024, 512)),
        (Box(0, 0, 100, 100), 64, (512, 512)),
    ],
)
def test_the_default_tile_is_done_soonest(needed: Box, workers: int, side: tuple[int, int]) -> None:
    """Large regions get large tiles; small ones are cut so that every worker has as few pixels as can be."""
    tile_px = default_tile_px(needed, needed.size, workers, halo_px=80, multiple_of=8)
    reads = [tile.read.area for tile in cover(needed, needed.size, tile_px=tile_px, halo_px=80, multiple_of=8)]
    wanted = [
        tile.read.area for tile in cover(needed, needed.size, tile_px=Size(*side), halo_px=80, multiple_of=8)
    ]
    assert reads == wanted


@given(place=places(), workers=st.integers(1, 8))
def test_no_default_tile_is_done_sooner(place: tuple[Size, Box], workers: int) -> None:
    """The choice equals trying every size."""
    extent, needed = place

    def longest(tile_px: Size) -> int:
        tiles = cover(needed, extent, tile_px=tile_px, halo_px=80, multiple_of=8)
        return -(-len(tiles) // workers) * tiles[0].read.area

    chosen = default_tile_px(needed, extent, workers, halo_px=80, multiple_of=8)
    assert longest(chosen) == min(longest(Size(*sides)) for sides in product(DEFAULT_TILE_PX, repeat=2))
