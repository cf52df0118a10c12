"""Cells near seams are kept once, whatever order they come in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from oracles import settle_one_by_one
from slidecascade.cells.seams import settle


@given(seed=st.integers(0, 10_000), count=st.integers(0, 60))
def test_settling_equals_looking_at_every_pair(seed: int, count: int) -> None:
    """The windowed search finds the pairs that comparing all cells finds."""
    rng = np.random.default_rng(seed)
    centroids = rng.uniform(0, 60, (count, 2))
    areas = rng.uniform(20, 200, count)
    tile_index = rng.integers(0, 4, count)
    owned, near_seam = rng.random((2, count)) < [[0.5], [0.8]]
    expected = settle_one_by_one(centroids, areas, tile_index, owned, near_seam)

    keep = settle(centroids, areas, tile_index=tile_index, owned=owned, near_seam=near_seam)

    np.testing.assert_array_equal(keep, expected)


def test_a_cell_both_tiles_own_is_kept_once() -> None:
    """A centroid that wandered over the seam by a pixel does not double the cell."""
    keep = settle(
        np.array([[100.4, 50.0], [99.6, 50.0]]),
        np.array([180.0, 176.0]),
        tile_index=np.array([1, 0]),
        owned=np.array([True, True]),
        near_seam=np.array([True, True]),
    )
    assert keep.tolist() == [False, True]


def test_a_cell_no_tile_owns_is_kept_once() -> None:
    """A cell that each tile places in the other one is not lost."""
    keep = settle(
        np.array([[100.4, 50.0], [99.6, 50.0]]),
        np.array([180.0, 176.0]),
        tile_index=np.array([0, 1]),
        owned=np.array([False, False]),
        near_seam=np.array([True, True]),
    )
    assert keep.sum() == 1


def test_touching_neighbours_both_stay() -> None:
    """Two cells side by side across a seam are two cells."""
    keep = settle(
        np.array([[95.0, 50.0], [105.0, 50.0]]),
        np.array([80.0, 80.0]),
        tile_index=np.array([0, 1]),
        owned=np.array([True, True]),
        near_seam=np.array([True, True]),
    )
    assert keep.all()
