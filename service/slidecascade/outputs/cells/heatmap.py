"""Maps of where a class of cells is frequent.

A fraction is smooth(numerator) / smooth(denominator) and a density is smooth(count) / smooth(tissue area),
both with the same Gaussian: the edges of the region, holes in the tissue and failed tiles then bias neither.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.result import Analysis
from slidecascade.outputs.extent import UM2_PER_MM2, tissue_um2
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.pipelines.heatmaps import HeatmapSpec

MAX_GRID_SIDE: Final = 2048
"""Most grid cells each way; a larger region gets larger grid cells."""

MIN_COVER: Final = 0.05
"""A density is told where at least this part of the smoothing window is tissue: a speck is no denominator."""

TRUNCATE: Final = 3.0
"""The Gaussian ends after this many standard deviations; cells farther away do not count."""


def compute(analysis: Analysis, spec: HeatmapSpec) -> Heatmap:
    """The map `spec` asks for, over the region of `analysis`."""
    region, mpp = analysis.region_l0, analysis.mpp
    width_um, height_um = region.width * mpp, region.height * mpp
    grid_um = max(spec.grid_um, max(width_um, height_um) / MAX_GRID_SIDE)
    x_edges_l0 = region.x + _edges_um(width_um, grid_um) / mpp
    y_edges_l0 = region.y + _edges_um(height_um, grid_um) / mpp
    tissue = tissue_um2(analysis, x_edges_l0, y_edges_l0)
    # By the region's own part of each bin: those at its right and bottom edge may be cut.
    extent = np.outer(
        np.diff(np.minimum(y_edges_l0, region.bottom)), np.diff(np.minimum(x_edges_l0, region.right))
    ) * (mpp**2)
    sigma = spec.sigma_um / grid_um
    covered = tissue > MIN_COVER * extent
    chosen = _members(analysis, spec.classes)
    if spec.kind == "fraction":
        counted = _members(analysis, spec.of) if spec.of else np.ones(len(analysis.instances), np.bool_)
        amount = _smooth(_count(analysis, chosen & counted, tissue.shape, grid_um), sigma)
        among = _smooth(_count(analysis, counted, tissue.shape, grid_um), sigma)
        told = covered & (among > 0)
    else:
        amount = _smooth(_count(analysis, chosen, tissue.shape, grid_um), sigma)
        among = _smooth(tissue, sigma) / UM2_PER_MM2
        told = covered & (among > MIN_COVER * _smooth(extent, sigma) / UM2_PER_MM2)
    values = np.full(tissue.shape, np.nan, np.float32)
    np.divide(amount, among, out=values, where=told, casting="same_kind")
    return Heatmap(
        name=spec.name,
        title=spec.title,
        unit="fraction" if spec.kind == "fraction" else "cells/mm2",
        values=values,
        minimum=0.0,
        maximum=_maximum(spec, values),
        grid_um=grid_um,
        width_um=width_um,
        height_um=height_um,
    )


def _edges_um(length_um: float, grid_um: float) -> NDArray[np.float64]:
    # A region of exactly n grid cells must not get one more from rounding.
    bins = max(1, math.ceil(length_um / grid_um - 1e-9))
    return np.linspace(0, bins * grid_um, bins + 1)


def _members(analysis: Analysis, names: tuple[str, ...]) -> NDArray[np.bool_]:
    chosen = np.zeros(len(analysis.instances), np.bool_)
    for name in names:
        chosen |= analysis.members(name)
    return chosen


def _count(
    analysis: Analysis, chosen: NDArray[np.bool_], shape: tuple[int, ...], grid_um: float
) -> NDArray[np.float64]:
    """Chosen cells by the grid cell that holds their centroid, ``(h, w)``."""
    height, width = shape
    corner_l0 = np.array([analysis.region_l0.x, analysis.region_l0.y])
    from_corner_um = (analysis.instances.centroids[chosen] - corner_l0) * analysis.mpp
    place = np.clip((from_corner_um // grid_um).astype(np.int64), 0, [width - 1, height - 1])
    counts = np.bincount(place[:, 1] * width + place[:, 0], minlength=height * width)
    return counts.reshape(height, width).astype(np.float64)


def _smooth(grid: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian of `sigma` grid cells; nothing lies beyond the border."""
    if sigma <= 0:
        return grid
    side = 2 * math.ceil(TRUNCATE * sigma) + 1
    smooth: NDArray[np.float64] = cv2.GaussianBlur(
        grid, (side, side), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_CONSTANT
    )
    return smooth


def _maximum(spec: HeatmapSpec, values: NDArray[np.float32]) -> float:
    if spec.maximum is not None:
        return spec.maximum
    if spec.kind == "fraction":
        return 1.0
    top = float(np.nanmax(values, initial=0.0))
    return top if top > 0 else 1.0
