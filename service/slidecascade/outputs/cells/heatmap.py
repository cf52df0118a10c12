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
"""A density is reported where at least this part of the smoothing window is tissue; specks do not count."""

TRUNCATE: Final = 3.0
"""The Gaussian ends after this many standard deviations; cells farther away do not count."""


class Tally:
    """Cells counted on the grid of a heatmap, in any number of portions of a region's cells.

    Args:
        analysis: states region, pixel size and tissue; its own cells are not counted before `add`.
    """

    def __init__(self, analysis: Analysis, spec: HeatmapSpec) -> None:
        region, mpp = analysis.region_l0, analysis.mpp
        self.spec = spec
        self.width_um, self.height_um = region.width * mpp, region.height * mpp
        self.grid_um = max(spec.grid_um, max(self.width_um, self.height_um) / MAX_GRID_SIDE)
        self.x_edges_l0 = region.x + _edges_um(self.width_um, self.grid_um) / mpp
        self.y_edges_l0 = region.y + _edges_um(self.height_um, self.grid_um) / mpp
        shape = (len(self.y_edges_l0) - 1, len(self.x_edges_l0) - 1)
        self.chosen = np.zeros(shape, np.int32)
        self.among = np.zeros(shape if spec.kind == "fraction" else (0, 0), np.int32)

    def add(self, analysis: Analysis) -> None:
        """Count the cells of `analysis`, which is of the same region."""
        chosen = _members(analysis, self.spec.classes)
        if self.spec.kind == "fraction":
            everyone = np.ones(len(analysis.instances), np.bool_)
            counted = _members(analysis, self.spec.of) if self.spec.of else everyone
            _count(self.among, analysis, counted, self.grid_um)
            chosen &= counted
        _count(self.chosen, analysis, chosen, self.grid_um)


def compute(analysis: Analysis, spec: HeatmapSpec) -> Heatmap:
    """The map `spec` asks for, over the region of `analysis`."""
    tally = Tally(analysis, spec)
    tally.add(analysis)
    return of_tally(analysis, tally)


def of_tally(analysis: Analysis, tally: Tally) -> Heatmap:
    """The map of the cells that `tally` counted, over the tissue of `analysis`, which is of the same region."""
    region, mpp, spec = analysis.region_l0, analysis.mpp, tally.spec
    tissue = tissue_um2(analysis, tally.x_edges_l0, tally.y_edges_l0)
    # By the region's own part of each bin: those at its right and bottom edge may be cut.
    extent = np.outer(
        np.diff(np.minimum(tally.y_edges_l0, region.bottom)), np.diff(np.minimum(tally.x_edges_l0, region.right))
    ) * (mpp**2)
    sigma = spec.sigma_um / tally.grid_um
    covered = tissue > MIN_COVER * extent
    amount = _smooth(tally.chosen.astype(np.float64), sigma)
    if spec.kind == "fraction":
        among = _smooth(tally.among.astype(np.float64), sigma)
        shown = covered & (among > 0)
    else:
        among = _smooth(tissue, sigma) / UM2_PER_MM2
        shown = covered & (among > MIN_COVER * _smooth(extent, sigma) / UM2_PER_MM2)
    values = np.full(tissue.shape, np.nan, np.float32)
    np.divide(amount, among, out=values, where=shown, casting="same_kind")
    is_physical = analysis.physical_mpp is not None
    unit = "cells/mm2" if is_physical else "cells/Mpx"
    if not is_physical and spec.kind == "density":
        values *= np.float32(mpp**2)  # a square of 1000 pixels in place of 1000 um
    return Heatmap(
        name=spec.name,
        title=spec.title,
        unit="fraction" if spec.kind == "fraction" else unit,
        values=values,
        minimum=0.0,
        maximum=_maximum(spec, values, is_physical=is_physical),
        is_physical=is_physical,
        grid_um=tally.grid_um,
        width_um=tally.width_um,
        height_um=tally.height_um,
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


def _count(counts: NDArray[np.int32], analysis: Analysis, chosen: NDArray[np.bool_], grid_um: float) -> None:
    """Add chosen cells to `counts` ``(h, w)`` by the grid cell that holds their centroid."""
    if not chosen.any():
        return
    height, width = counts.shape
    corner_l0 = np.array([analysis.region_l0.x, analysis.region_l0.y])
    from_corner_um = (analysis.instances.centroids[chosen] - corner_l0) * analysis.mpp
    place = np.clip((from_corner_um // grid_um).astype(np.int64), 0, [width - 1, height - 1])
    # Only where there are cells: a portion of a slide touches a small part of its grid.
    (left, top), (right, bottom) = place.min(axis=0), place.max(axis=0) + 1
    columns = right - left
    found = np.bincount((place[:, 1] - top) * columns + place[:, 0] - left, minlength=(bottom - top) * columns)
    counts[top:bottom, left:right] += found.reshape(bottom - top, columns).astype(np.int32)


def _smooth(grid: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian of `sigma` grid cells; nothing lies beyond the border."""
    if sigma <= 0:
        return grid
    side = 2 * math.ceil(TRUNCATE * sigma) + 1
    smooth: NDArray[np.float64] = cv2.GaussianBlur(
        grid, (side, side), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_CONSTANT
    )
    return smooth


def _maximum(spec: HeatmapSpec, values: NDArray[np.float32], *, is_physical: bool) -> float:
    if spec.maximum is not None and (is_physical or spec.kind == "fraction"):
        return spec.maximum
    if spec.kind == "fraction":
        return 1.0
    top = float(np.nanmax(values, initial=0.0))
    return top if top > 0 else 1.0
