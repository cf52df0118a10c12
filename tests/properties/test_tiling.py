"""Cores partition any region, and exactly one tile owns any position."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidecascade.geometry import Box, Size
from slidecascade.slides.tiling import cover, default_tile_px

SIZES = st.builds(Size, st.integers(1, 3000), st.integers(1, 3000))
STRIDES = st.sampled_from([1, 8, 16, 32])
TILES = st.integers(64, 1500)
SHIFTS = st.integers(0, 2000)


@given(size=SIZES, stride=STRIDES, tile_px=TILES, halo=st.integers(0, 4), shift_x=SHIFTS, shift_y=SHIFTS)
def test_cores_partition_the_region(
    size: Size, stride: int, tile_px: int, halo: int, shift_x: int, shift_y: int
) -> None:
    """Every pixel of a region lies in exactly one core, and every core has pixels."""
    tiles = cover(
        size, tile_px=tile_px, halo_px=halo * stride, multiple_of=stride, shift_x=shift_x, shift_y=shift_y
    )
    assert sum(tile.core.area for tile in tiles) == size.area
    assert all(tile.core.width > 0 and tile.core.height > 0 for tile in tiles)
    xs = sorted({tile.core.x for tile in tiles})
    ys = sorted({tile.core.y for tile in tiles})
    # Cores that start on a lattice and add up to the region overlap nowhere when each ends where the next starts.
    ends_x = dict(zip(xs, [*xs[1:], size.width], strict=True))
    ends_y = dict(zip(ys, [*ys[1:], size.height], strict=True))
    assert all(tile.core.right == ends_x[tile.core.x] for tile in tiles)
    assert all(tile.core.bottom == ends_y[tile.core.y] for tile in tiles)
    assert [tile.index for tile in tiles] == list(range(len(tiles)))


@given(
    size=SIZES,
    stride=STRIDES,
    tile_px=TILES,
    shift=SHIFTS,
    places=st.lists(st.tuples(st.floats(0, 0.999999), st.floats(0, 0.999999)), min_size=1, max_size=50),
)
def test_exactly_one_tile_owns_a_position(
    size: Size, stride: int, tile_px: int, shift: int, places: list[tuple[float, float]]
) -> None:
    """Any position inside the region, on seams too, is owned once."""
    tiles = cover(size, tile_px=tile_px, halo_px=0, multiple_of=stride, shift_x=shift, shift_y=shift)
    points = np.array(places) * [size.width, size.height]
    corners = np.array([[tile.core.x, tile.core.y] for tile in tiles], np.float64)
    points = np.concatenate([points, corners])
    owners = np.sum([tile.core.contains(points) for tile in tiles], axis=0)
    assert (owners == 1).all()


@given(size=SIZES, stride=STRIDES, tile_px=TILES, halo=st.integers(0, 4), shift=SHIFTS)
def test_read_boxes_keep_the_networks_phase(size: Size, stride: int, tile_px: int, halo: int, shift: int) -> None:
    """Read boxes start and end on the network's stride and hold the core with its halo inside the region."""
    halo_px = halo * stride
    whole = Box(0, 0, -(-size.width // stride) * stride, -(-size.height // stride) * stride)
    for tile in cover(size, tile_px=tile_px, halo_px=halo_px, multiple_of=stride, shift_x=shift):
        assert tile.read.x % stride == tile.read.y % stride == 0
        assert tile.read.width % stride == tile.read.height % stride == 0
        assert whole.encloses(tile.read)
        assert tile.read.encloses(tile.core.inflated(halo_px).clipped(whole))
        assert tile.read.width <= max(stride, tile_px) + 2 * halo_px
        assert tile.wide == tile.core.inflated(2 * halo_px).clipped(whole)


@given(size=SIZES, stride=STRIDES, tile_px=TILES)
def test_unshifted_tiles_have_one_shape(size: Size, stride: int, tile_px: int) -> None:
    """Tiles of one shape can be run as one batch."""
    tiles = cover(size, tile_px=tile_px, halo_px=stride, multiple_of=stride)
    assert len({tile.read.size for tile in tiles}) == 1


def test_the_default_tile_keeps_all_workers_busy() -> None:
    """Large regions get large tiles; small ones are cut finer so that every worker has two."""
    assert default_tile_px(Size(10_000, 10_000), workers=2, halo_px=80) == 1024
    assert default_tile_px(Size(1200, 1200), workers=2, halo_px=80) == 1024
    assert default_tile_px(Size(1024, 1024), workers=2, halo_px=80) == 768
    assert default_tile_px(Size(100, 100), workers=64, halo_px=80) == 512


@given(width=st.integers(900, 5000), height=st.integers(900, 5000), workers=st.integers(1, 2))
def test_default_tiles_are_enough_for_all_workers(width: int, height: int, workers: int) -> None:
    """As many tiles are cut as the choice of their size counted on."""
    size = Size(width, height)
    tile_px = default_tile_px(size, workers, halo_px=80)
    assert len(cover(size, tile_px=tile_px, halo_px=80, multiple_of=8)) >= 2 * workers
