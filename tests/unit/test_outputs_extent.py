"""How much was analysed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_analysis import make_analysis
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box, Grid, Size
from slidecascade.kinds.result import FailedTile, TissueMap
from slidecascade.outputs.extent import analysed_mm2, tissue_mm2, tissue_um2

REGION = Box(10, 20, 40, 30)


def slow_tissue_px(analysis: Analysis, x_edges: np.ndarray, y_edges: np.ndarray) -> np.ndarray:
    """Tissue by bin, one level-0 pixel at a time; all edges must be whole pixels."""
    bins = np.zeros((len(y_edges) - 1, len(x_edges) - 1))
    grid = analysis.tissue.grid
    for y in range(REGION.y, REGION.bottom):
        for x in range(REGION.x, REGION.right):
            row = int((y - grid.origin_y_l0) // grid.downsample)
            column = int((x - grid.origin_x_l0) // grid.downsample)
            inside = 0 <= row < len(analysis.tissue.mask) and 0 <= column < analysis.tissue.mask.shape[1]
            failed = any(
                tile.core_l0.contains(np.array([[x, y]], np.float64))[0] for tile in analysis.tiles.failed
            )
            i, j = np.searchsorted(y_edges, y, "right") - 1, np.searchsorted(x_edges, x, "right") - 1
            if inside and analysis.tissue.mask[row, column] and not failed and 0 <= i < len(bins):
                bins[i, j] += 1
    return bins


@given(
    seed=st.integers(0, 10_000),
    downsample=st.integers(1, 9),
    origin=st.tuples(st.integers(0, 12), st.integers(10, 25)),
    step=st.integers(3, 17),
    failed=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_tissue_is_counted_exactly(
    seed: int, downsample: int, origin: tuple[int, int], step: int, failed: bool
) -> None:
    """Any map grid against any lattice gives the sum over single pixels, failed tiles left out."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < 0.6
    grid = Grid(*origin, downsample, Size(mask.shape[1], mask.shape[0]), 0.5 * downsample)
    tiles = (FailedTile(Box(5, 25, 20, 12), "lost"), FailedTile(Box(30, 37, 50, 50), "lost"))
    base = make_analysis(0, region_l0=REGION, failed=tiles if failed else ())
    analysis = replace(base, tissue=TissueMap(mask, grid))
    x_edges = np.arange(REGION.x, REGION.right + step, step, dtype=np.float64)
    y_edges = np.arange(REGION.y, REGION.bottom + step, step, dtype=np.float64)

    counted_px = tissue_um2(analysis, x_edges, y_edges) / 0.5**2

    np.testing.assert_allclose(counted_px, slow_tissue_px(analysis, x_edges, y_edges), atol=1e-9)


def test_the_whole_region_is_analysed_when_no_tile_failed() -> None:
    """Areas are in mm2: 800 x 600 px at 0.5 um are 0.12 mm2."""
    analysis = make_analysis()

    assert analysed_mm2(analysis) == pytest.approx(0.12)
    assert tissue_mm2(analysis) == pytest.approx(0.12)


def test_a_failed_tile_was_not_analysed() -> None:
    """A quarter of the region failed: a quarter less area and tissue."""
    analysis = make_analysis(failed=(FailedTile(Box(1000, 2000, 400, 300), "lost"),))

    assert analysed_mm2(analysis) == pytest.approx(0.09)
    assert tissue_mm2(analysis) == pytest.approx(0.09)


def test_glass_is_not_tissue() -> None:
    """An empty tissue map gives no tissue in an area that was analysed."""
    analysis = make_analysis(tissue=np.zeros((38, 50), np.bool_))

    assert tissue_mm2(analysis) == 0
    assert analysed_mm2(analysis) == pytest.approx(0.12)


def test_a_huge_map_costs_little_memory() -> None:
    """The sums are made by bands: a map of 36 million pixels needs less than twice its own bytes."""
    side = 6000
    mask = np.ones((side, side), np.bool_)
    base = make_analysis(0, region_l0=Box(0, 0, side, side))
    analysis = replace(base, tissue=TissueMap(mask, Grid(0, 0, 1, Size(side, side), 0.5)))
    edges = np.linspace(0, side, 501)

    tracemalloc.start()
    bins = tissue_um2(analysis, edges, edges)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2 * mask.nbytes
    np.testing.assert_allclose(bins, (12 * analysis.mpp) ** 2)
