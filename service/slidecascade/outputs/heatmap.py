"""Maps over the region and their colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.errors import UnknownHeatmapError
from slidecascade.outputs import png
from slidecascade.outputs.colormap import Colormap

LEGEND_STOPS: Final = 16
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
            ``(x, y) * grid_um`` from the region's top left corner, less what comes before it. NaN where nothing is
            known: there is no analysed tissue, or nothing countable near.
        minimum, maximum: ends of the colour scale, in `unit`.
        width_um, height_um: extent of the region; the last column and row may reach beyond it.
        is_physical: whether lengths are micrometres; else they are those of objects of usual size.
        before_x_um, before_y_um: how far the first column and row begin before the region's corner.
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
    before_x_um: float = 0.0
    before_y_um: float = 0.0
    is_physical: bool = True

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


class Named(Protocol):
    """Whatever is called something."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def named(name: str | None, specs: Sequence[N], *, pipeline: str) -> N:
    """The heatmap of `specs` of that name; None: the first.

    Raises:
        UnknownHeatmapError: listing the names there are.
    """
    names = [spec.name for spec in specs]
    return specs[names.index(require_name(name, names, pipeline=pipeline))]


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


def encode_png(heatmap: Heatmap, colormap: Colormap = Colormap.VIRIDIS) -> bytes:
    """RGBA PNG of the region, `Heatmap.pixel_um` micrometres per pixel, transparent where values are NaN.

    Values are interpolated before they are coloured; the transparent part keeps the grid's own edges.
    """
    table = colormap.colors()
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
    top, left = (round(before / pixel_um) for before in (heatmap.before_y_um, heatmap.before_x_um))
    rows, columns = (math.ceil(length / pixel_um - 1e-9) for length in (heatmap.height_um, heatmap.width_um))
    return large[top : top + max(1, rows), left : left + max(1, columns)]


def legend(heatmap: Heatmap, colormap: Colormap = Colormap.VIRIDIS) -> wire.Legend:
    """How to read the PNG."""
    table = colormap.colors()
    stops = table[np.linspace(0, 255, LEGEND_STOPS).round().astype(np.int64)].tolist()
    return wire.Legend(
        name=heatmap.name,
        title=heatmap.title,
        unit=heatmap.unit,
        minimum=heatmap.minimum,
        maximum=heatmap.maximum,
        colormap=colormap,
        stops=tuple((red, green, blue) for red, green, blue in stops),
        pixel_um=heatmap.pixel_um if heatmap.is_physical else None,
    )
