"""The result of analysing a region: all that an encoder may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.pipelines.classes import ClassTree
from slidecascade.pipelines.heatmaps import HeatmapSpec
from slidecascade.slides.facts import SlideFacts
from slidecascade.warning import AnswerWarning

CoordinateSpace = Literal["level0-pixels", "image-pixels"]
Origin = Literal["slide", "bounds"]


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model that took part: identity, role, the grid it read and its class names."""

    name: str
    version: int
    sha256: str
    role: Literal["segmenter", "classifier"]
    grid: Grid
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FailedTile:
    """A tile that failed twice: its core in level-0 pixels, and why."""

    core_l0: Box
    reason: str


@dataclass(frozen=True, slots=True)
class TileReport:
    """Every tile accounted for."""

    total: int
    background: int
    failed: tuple[FailedTile, ...]


@dataclass(frozen=True, slots=True)
class TissueMap:
    """Where tissue is: ``mask[y, x]`` covers grid pixel ``(x, y)`` of `grid` (a coarse one)."""

    mask: NDArray[np.bool_]
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Cells of a region with their provenance.

    `facts` holds what was computed once for the slide. `instances` is in level-0 pixels (pixels of the upload for
    an image); `class_index` ``(N,)`` int64 points into `classes.ends`; `instances.probabilities[k]` has the
    columns `models[k + 1].classes`. `mpp` is the level-0 pixel size. `timings_s` adds up seconds of work by stage
    over threads. All of it counts from the corner of level 0; `origin` says what written outlines count from.
    """

    pipeline: str
    coordinate_space: CoordinateSpace
    facts: SlideFacts
    region_l0: Box
    mpp: Mpp
    models: tuple[UsedModel, ...]
    thresholds: Mapping[str, float]
    classes: ClassTree
    instances: Instances
    class_index: NDArray[np.int64]
    heatmaps: tuple[HeatmapSpec, ...]
    tissue: TissueMap
    tiles: TileReport
    timings_s: Mapping[str, float]
    warnings: tuple[AnswerWarning, ...] = ()
    origin: Origin = "slide"

    @property
    def origin_l0(self) -> tuple[int, int]:
        """The level-0 pixel (x, y) that output coordinates count from."""
        bounds = self.facts.bounds_l0
        return (bounds.x, bounds.y) if self.origin == "bounds" and bounds is not None else (0, 0)

    @property
    def counts(self) -> dict[str, int]:
        """Cells by class name, zero included."""
        numbers = np.bincount(self.class_index, minlength=len(self.classes.ends))
        return {end.name: int(number) for end, number in zip(self.classes.ends, numbers, strict=True)}

    def members(self, name: str) -> NDArray[np.bool_]:
        """``(N,)``: the cells of class `name` or of a class derived from it; none where there is no such class."""
        group = self.classes.groups.get(name)
        chosen: NDArray[np.bool_] = np.isin(self.class_index, group.members if group else ())
        return chosen
