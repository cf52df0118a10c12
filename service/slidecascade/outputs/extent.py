"""How much was analysed, and how much of it is tissue."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box
from slidecascade.kinds.result import RegionResult
from slidecascade.slides.tissue import BLOCK_PX

UM2_PER_MM2 = 1e6

_BAND_ROWS = 256
"""Rows of the tissue map summed at a time: what bounds memory."""


def analysed_mm2(analysis: RegionResult) -> float:
    """The region without its failed tiles, mm2."""
    failed = sum(tile.core_l0.clipped(analysis.region_l0).area for tile in analysis.tiles.failed)
    return (analysis.region_l0.area - failed) * analysis.mpp**2 / UM2_PER_MM2


def block_px_mm2(analysis: RegionResult, pixels: float) -> float:
    """The area of `pixels` of the grid whose blocks the tissue map holds, mm2."""
    return pixels * (analysis.tissue.grid.downsample / BLOCK_PX * analysis.mpp) ** 2 / UM2_PER_MM2


def tissue_mm2(analysis: RegionResult) -> float:
    """The tissue inside the analysed area, mm2."""
    region = analysis.region_l0
    x_edges_l0 = np.array([region.x, region.right], np.float64)
    y_edges_l0 = np.array([region.y, region.bottom], np.float64)
    return float(tissue_um2(analysis, x_edges_l0, y_edges_l0)[0, 0]) / UM2_PER_MM2


def tissue_um2(
    analysis: RegionResult, x_edges_l0: NDArray[np.float64], y_edges_l0: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Tissue inside each bin of a lattice, um2, ``(len(y_edges) - 1, len(x_edges) - 1)``.

    Exact for the tissue map as it is: a map pixel counts by the part of it inside the bin. Outside the region
    and inside failed tiles nothing was analysed, so nothing counts.
    """
    region = analysis.region_l0
    total = _inside(analysis, x_edges_l0, y_edges_l0, region)
    for tile in analysis.tiles.failed:
        total -= _inside(analysis, x_edges_l0, y_edges_l0, tile.core_l0.clipped(region))
    return np.maximum(total, 0.0)


def _inside(
    analysis: RegionResult, x_edges_l0: NDArray[np.float64], y_edges_l0: NDArray[np.float64], box_l0: Box
) -> NDArray[np.float64]:
    """Tissue inside each bin and inside `box_l0`, um2."""
    grid, mask = analysis.tissue.grid, analysis.tissue.mask
    x = (np.clip(x_edges_l0, box_l0.x, box_l0.right) - grid.origin_x_l0) / grid.downsample
    y = (np.clip(y_edges_l0, box_l0.y, box_l0.bottom) - grid.origin_y_l0) / grid.downsample
    first_row, end_row = max(0, math.floor(y[0])), min(len(mask), math.ceil(y[-1]))
    bins = np.zeros((len(y) - 1, len(x) - 1))
    for top in range(first_row, end_row, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, end_row)
        first, end = np.searchsorted(y, top, "right") - 1, np.searchsorted(y, bottom, "left")
        touched = slice(max(0, int(first)), int(end))
        shares = _overlaps(y[touched.start : touched.stop + 1], top, bottom)
        bins[touched] += shares @ _sums_between(mask[top:bottom], x)
    bins *= (grid.downsample * analysis.mpp) ** 2
    return bins


def _overlaps(edges: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float64]:
    """How much of each of the pixels `start` to `stop` lies in each bin, ``(bins, stop - start)``."""
    pixels = np.arange(start, stop)
    covered: NDArray[np.float64] = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(covered, 0.0, out=covered)


def _sums_between(band: NDArray[np.bool_], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tissue of each row of `band` between neighbouring fractional `edges`, in pixels, ``(rows, bins)``."""
    cumulative = np.zeros((band.shape[0], band.shape[1] + 1), np.int32)
    np.cumsum(band, axis=1, out=cumulative[:, 1:])
    clipped = np.clip(edges, 0, band.shape[1])
    below = np.minimum(clipped.astype(np.int64), band.shape[1] - 1)
    part = clipped - below
    at_edges = cumulative[:, below] * (1 - part) + cumulative[:, below + 1] * part
    sums: NDArray[np.float64] = np.diff(at_edges, axis=1)
    return sums
