"""What a pipeline's heatmaps show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapSpec:
    """A map over the region.

    ``fraction``: cells of `classes` among the cells of `of`; ``density``: cells of `classes` per mm2 of tissue.
    A class name stands for itself and for all classes derived from it (``Hepatocyte`` covers
    ``Hepatocyte: Ballooning``). `maximum` fixes the top of the colour scale; None: 1 for a fraction, the
    map's own maximum for a density.
    """

    name: str
    title: str
    kind: Literal["fraction", "density"]
    classes: tuple[str, ...]
    of: tuple[str, ...] = ()
    grid_um: float = 16.0
    sigma_um: float = 40.0
    maximum: float | None = None
