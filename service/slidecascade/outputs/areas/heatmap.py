"""Maps of how much of a neighbourhood a class covers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.result import AreasResult
from slidecascade.areas.runs import Runs
from slidecascade.outputs.extent import tissue_um2
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.pipelines.areas import CoverageMap

MAX_GRID_SIDE = 2048
MIN_COVER = 0.05
"""A share is stated where at least this part of a grid cell is tissue."""


def compute(result: AreasResult, spec: CoverageMap) -> Heatmap:
    """The map `spec` asks for: of the pixels of each grid cell, those of the class."""
    region, mpp = result.region_l0, result.mpp
    width_um, height_um = region.width * mpp, region.height * mpp
    grid_um = max(spec.grid_um, max(width_um, height_um) / MAX_GRID_SIDE)
    columns, rows = (max(1, math.ceil(length / grid_um - 1e-9)) for length in (width_um, height_um))
    grid, box = result.grid, result.box
    x = _bins(box.x, box.width, columns, grid.downsample, grid.origin_x_l0 - region.x, mpp / grid_um)
    y = _bins(box.y, box.height, rows, grid.downsample, grid.origin_y_l0 - region.y, mpp / grid_um)
    covered = _covered(result.of_class(spec.class_index).moved(-box.x, -box.y), x, y)
    seen = np.outer(np.diff(y), np.diff(x))
    tissue = tissue_um2(
        result, _edges_l0(region.x, columns, grid_um / mpp), _edges_l0(region.y, rows, grid_um / mpp)
    )
    shown = (seen > 0) & (tissue > MIN_COVER * seen * grid.mpp**2)
    values = np.full((rows, columns), np.nan, np.float32)
    np.divide(covered, seen, out=values, where=shown, casting="unsafe")
    return Heatmap(
        name=spec.name,
        title=spec.title,
        unit="fraction",
        values=values,
        minimum=0.0,
        maximum=spec.maximum,
        grid_um=grid_um,
        width_um=width_um,
        height_um=height_um,
    )


def _edges_l0(start_l0: int, bins: int, side_l0: float) -> NDArray[np.float64]:
    edges: NDArray[np.float64] = start_l0 + np.arange(bins + 1, dtype=np.float64) * side_l0
    return edges


def _bins(
    start: int, count: int, bins: int, downsample: float, shift_l0: float, bins_per_l0: float
) -> NDArray[np.int64]:
    """``(bins + 1,)``: where each bin begins among `count` pixels, by their middles."""
    middles = ((np.arange(start, start + count) + 0.5) * downsample + shift_l0) * bins_per_l0
    return np.searchsorted(middles, np.append(np.arange(bins), np.inf)).astype(np.int64)


def _covered(runs: Runs, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(len(y) - 1, len(x) - 1)``: pixels of `runs` in each bin."""
    columns = np.searchsorted(x, runs.columns, side="right") - 1
    first = np.searchsorted(y, runs.tops, side="right") - 1
    spans = np.searchsorted(y, runs.bottoms, side="left") - first
    run = np.repeat(np.arange(len(runs)), spans)
    rows = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(spans) - spans, spans)
    lengths = np.minimum(runs.bottoms[run], y[rows + 1]) - np.maximum(runs.tops[run], y[rows])
    covered = np.zeros((len(y) - 1, len(x) - 1), np.int64)
    np.add.at(covered, (rows, columns[run]), lengths)
    return covered
