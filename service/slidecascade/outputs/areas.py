"""How much was analysed, and how much of it is tissue."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis import Analysis
from slidecascade.geometry import Box

UM2_PER_MM2 = 1e6


def analysed_mm2(analysis: Analysis) -> float:
    """The region without its failed tiles, mm2."""
    failed = sum(tile.core_l0.clipped(analysis.region_l0).area for tile in analysis.tiles.failed)
    return (analysis.region_l0.area - failed) * analysis.mpp**2 / UM2_PER_MM2


def tissue_mm2(analysis: Analysis) -> float:
    """The tissue inside the analysed area, mm2."""
    region = analysis.region_l0
    x_edges_l0 = np.array([region.x, region.right], np.float64)
    y_edges_l0 = np.array([region.y, region.bottom], np.float64)
    return float(tissue_um2(analysis, x_edges_l0, y_edges_l0)[0, 0]) / UM2_PER_MM2


def tissue_um2(
    analysis: Analysis, x_edges_l0: NDArray[np.float64], y_edges_l0: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Tissue inside each bin of a lattice, um2, ``(len(y_edges) - 1, len(x_edges) - 1)``.

    Exact for the tissue map as it is: a map pixel counts by the part of it inside the bin. Outside the region
    and inside failed tiles nothing was analysed, so nothing counts.
    """
    # Sums over all tissue above and left of a map corner: any box is a difference of four of them.
    cumulative = cv2.integral(analysis.tissue.mask.astype(np.uint8), sdepth=cv2.CV_64F)
    region = analysis.region_l0
    total = _inside(analysis, cumulative, x_edges_l0, y_edges_l0, region)
    for tile in analysis.tiles.failed:
        total -= _inside(analysis, cumulative, x_edges_l0, y_edges_l0, tile.core_l0.clipped(region))
    return np.maximum(total, 0.0)


def _inside(
    analysis: Analysis,
    cumulative: NDArray[np.float64],
    x_edges_l0: NDArray[np.float64],
    y_edges_l0: NDArray[np.float64],
    box_l0: Box,
) -> NDArray[np.float64]:
    """Tissue inside each bin and inside `box_l0`, um2."""
    grid = analysis.tissue.grid
    x = (np.clip(x_edges_l0, box_l0.x, box_l0.right) - grid.origin_x_l0) / grid.downsample
    y = (np.clip(y_edges_l0, box_l0.y, box_l0.bottom) - grid.origin_y_l0) / grid.downsample
    at_edges = _interpolate(_interpolate(cumulative, y, axis=0), x, axis=1)
    pixel_um2 = (grid.downsample * analysis.mpp) ** 2
    bins: NDArray[np.float64] = np.diff(np.diff(at_edges, axis=0), axis=1) * pixel_um2
    return bins


def _interpolate(table: NDArray[np.float64], positions: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """`table` read linearly at fractional `positions` along `axis`; beyond the ends the end values."""
    clipped = np.clip(positions, 0, table.shape[axis] - 1)
    below = np.minimum(clipped.astype(np.int64), table.shape[axis] - 2)
    part = np.expand_dims(clipped - below, 1 - axis)
    low, high = table.take(below, axis=axis), table.take(below + 1, axis=axis)
    mixed: NDArray[np.float64] = low * (1 - part) + high * part
    return mixed
