"""Maps of where a class is frequent, and their colours.

A fraction is smooth(numerator) / smooth(denominator) and a density is smooth(count) / smooth(tissue area),
both with the same Gaussian: the edges of the region, holes in the tissue and failed tiles then bias neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.cells.result import Analysis
from slidecascade.errors import InvalidRequestError, UnknownHeatmapError
from slidecascade.outputs import png
from slidecascade.outputs.areas import UM2_PER_MM2, tissue_um2
from slidecascade.pipelines.heatmaps import HeatmapSpec

DEFAULT_COLORMAP: Final = "viridis"
COLORMAPS: Final = {
    "viridis": cv2.COLORMAP_VIRIDIS,
    "cividis": cv2.COLORMAP_CIVIDIS,
    "magma": cv2.COLORMAP_MAGMA,
    "inferno": cv2.COLORMAP_INFERNO,
    "plasma": cv2.COLORMAP_PLASMA,
    "jet": cv2.COLORMAP_JET,
}
"""All perceptually uniform except ``jet``, which is offered because pathology tools show it."""

LEGEND_STOPS: Final = 16
MAX_GRID_SIDE: Final = 2048
"""Most grid cells each way; a larger region gets larger grid cells."""

MIN_COVER: Final = 0.05
"""A density is told where at least this part of the smoothing window is tissue: a speck is no denominator."""

TRUNCATE: Final = 3.0
"""The Gaussian ends after this many standard deviations; cells farther away do not count."""

PIXEL_UM: Final = 4.0
"""Side of a pixel of the PNG, unless the picture would be too small or too large to look at."""

MIN_PIXEL_UM: Final = 0.5
MIN_PNG_SIDE: Final = 512
MAX_PNG_SIDE: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """A map over the region, before it gets colours.

    Attributes:
        values: ``(h, w)`` float32; ``values[y, x]`` covers a square of `grid_um` whose corner is
            ``(x, y) * grid_um`` from the region's top left corner. NaN where there is no analysed tissue, or
            nothing countable within three sigma.
        minimum, maximum: ends of the colour scale, in `unit`.
        width_um, height_um: extent of the region; the last column and row may reach beyond it.
    """

    name: str
    title: str
    unit: str
    values: NDArray[np.float32]
    minimum: float
    maximum: float
    grid_um: float
    width_um: float
    height_um: float

    @property
    def png_scale(self) -> int:
        """PNG pixels per grid cell, each way."""
        longest_um = max(self.width_um, self.height_um)
        wanted_um = max(min(PIXEL_UM, longest_um / MIN_PNG_SIDE), MIN_PIXEL_UM)
        return max(1, min(math.ceil(self.grid_um / wanted_um), MAX_PNG_SIDE // int(max(self.values.shape))))

    @property
    def pixel_um(self) -> float:
        """Side of a pixel of the PNG in micrometres."""
        return self.grid_um / self.png_scale


def find(analysis: Analysis, name: str | None) -> HeatmapSpec:
    """The heatmap of that name; None: the pipeline's first.

    Raises:
        UnknownHeatmapError: listing the names there are.
    """
    names = [spec.name for spec in analysis.heatmaps]
    return analysis.heatmaps[names.index(require_name(name, names, pipeline=analysis.pipeline))]


def require_name(name: str | None, names: Sequence[str], *, pipeline: str) -> str:
    """`name`, when it is one of `names`, the heatmaps of `pipeline`; None: the first.

    Raises:
        UnknownHeatmapError: listing the names there are.
    """
    if not names:
        raise UnknownHeatmapError(f"The pipeline {pipeline} has no heatmaps; ask for another answer.")
    if name is not None and name not in names:
        raise UnknownHeatmapError(f"The pipeline {pipeline} has no heatmap {name!r}; it has: {', '.join(names)}.")
    return names[0] if name is None else name


def require_colormap(colormap: str) -> str:
    """`colormap`, when it is one of `COLORMAPS`.

    Raises:
        InvalidRequestError: otherwise, listing the names.
    """
    if colormap not in COLORMAPS:
        message = f"There is no colormap {colormap!r}; choose one of: {', '.join(COLORMAPS)}."
        raise InvalidRequestError(message, (("colormap", message),))
    return colormap


class Tally:
    """Cells counted on the grid of a heatmap, which may come in several portions of a region's cells.

    Args:
        analysis: says which region, resolution and tissue; its own cells are not counted before `add`.
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
            counted = (
                _members(analysis, self.spec.of) if self.spec.of else np.ones(len(analysis.instances), np.bool_)
            )
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
        told = covered & (among > 0)
    else:
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


def _maximum(spec: HeatmapSpec, values: NDArray[np.float32]) -> float:
    if spec.maximum is not None:
        return spec.maximum
    if spec.kind == "fraction":
        return 1.0
    top = float(np.nanmax(values, initial=0.0))
    return top if top > 0 else 1.0


def encode_png(heatmap: Heatmap, colormap: str = DEFAULT_COLORMAP) -> bytes:
    """RGBA PNG of the region, `Heatmap.pixel_um` micrometres per pixel, transparent where values are NaN.

    Values are interpolated before they are coloured; the transparent part keeps the grid's own edges.

    Raises:
        InvalidRequestError: when there is no such colormap.
    """
    table = _colors(colormap)
    known = ~np.isnan(heatmap.values)
    weights = _enlarge(heatmap, known.astype(np.float32), cv2.INTER_LINEAR)
    values = _enlarge(heatmap, np.where(known, heatmap.values, np.float32(0)), cv2.INTER_LINEAR)
    shown = _enlarge(heatmap, known.astype(np.float32), cv2.INTER_NEAREST) > 0
    np.divide(values, weights, out=values, where=shown)
    level = (values - heatmap.minimum) / (heatmap.maximum - heatmap.minimum)
    rgb = table[np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8)]
    alpha = np.where(shown, np.uint8(255), np.uint8(0))
    return png.encode(np.dstack([np.where(shown[:, :, None], rgb, np.uint8(0)), alpha]))


def _enlarge(heatmap: Heatmap, grid: NDArray[np.float32], interpolation: int) -> NDArray[np.float32]:
    """`grid` at the PNG's scale, without what reaches beyond the region."""
    height, width = grid.shape
    scale, pixel_um = heatmap.png_scale, heatmap.pixel_um
    large: NDArray[np.float32] = cv2.resize(grid, (width * scale, height * scale), interpolation=interpolation)
    rows, columns = (math.ceil(length / pixel_um - 1e-9) for length in (heatmap.height_um, heatmap.width_um))
    return large[: max(1, rows), : max(1, columns)]


def legend(heatmap: Heatmap, colormap: str = DEFAULT_COLORMAP) -> wire.Legend:
    """How to read the PNG.

    Raises:
        InvalidRequestError: when there is no such colormap.
    """
    table = _colors(colormap)
    stops = table[np.linspace(0, 255, LEGEND_STOPS).round().astype(np.int64)].tolist()
    return wire.Legend(
        name=heatmap.name,
        title=heatmap.title,
        unit=heatmap.unit,
        minimum=heatmap.minimum,
        maximum=heatmap.maximum,
        colormap=colormap,
        stops=tuple((red, green, blue) for red, green, blue in stops),
        pixel_um=heatmap.pixel_um,
    )


def _colors(colormap: str) -> NDArray[np.uint8]:
    """The 256 colours of a map from low to high, RGB ``(256, 3)``."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    table: NDArray[np.uint8] = cv2.applyColorMap(ramp, COLORMAPS[require_colormap(colormap)])[:, 0, ::-1]
    return table
