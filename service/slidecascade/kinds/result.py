"""What the results of all kinds of pipeline have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.pipelines.classes import ClassTree
from slidecascade.slides.facts import SlideFacts
from slidecascade.slides.flaws import Flaws
from slidecascade.warning import AnswerWarning
from slidecascade.wire.fields import Averaging

CoordinateSpace = Literal["level0-pixels", "image-pixels"]
Origin = Literal["slide", "bounds"]
ModelRole = Literal["segmenter", "classifier", "companion"]


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model that took part: identity, role, the grid it read and its class names."""

    name: str
    version: int
    sha256: str
    role: ModelRole
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
class Account:
    """What became of the tiles of a region; `seen_px` of its pixels, in their grid, were analysed."""

    tiles: TileReport
    seen_px: int


@dataclass(frozen=True, slots=True)
class TissueMap:
    """Where tissue is: ``mask[y, x]`` covers grid pixel ``(x, y)`` of `grid` (a coarse one)."""

    mask: NDArray[np.bool_]
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaShare:
    """The part of the tissue that a class of a companion covers, both areas in um2.

    `title` says what it is, `model` and `class_name` what found it.
    """

    name: str
    title: str
    model: str
    class_name: str
    covered_um2: float
    tissue_um2: float

    @property
    def value(self) -> float | None:
        """None without tissue."""
        return self.covered_um2 / self.tissue_um2 if self.tissue_um2 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was analysed, and with what.

    `facts` holds what was computed once for the slide; `region_l0` is in level-0 pixels (pixels of the upload for
    an image), and `mpp` is the size of these. `thresholds` has a number for each model. `doubts` is what makes any
    answer about the slide doubtful; `origin` says what written outlines count from. With `object_diameter_px` the
    size of pixels is not known, and `mpp` is what it would be if objects had the size that the segmenter was
    trained for.
    """

    pipeline: str
    coordinate_space: CoordinateSpace
    facts: SlideFacts
    region_l0: Box
    mpp: Mpp
    models: tuple[UsedModel, ...]
    thresholds: Mapping[str, float]
    doubts: tuple[AnswerWarning, ...] = ()
    origin: Origin = "slide"
    object_diameter_px: float | None = None
    tta: Averaging = "none"


class CommonFields(TypedDict):
    """Arguments of the constructor of every `RegionResult`."""

    pipeline: str
    coordinate_space: CoordinateSpace
    facts: SlideFacts
    region_l0: Box
    mpp: Mpp
    models: tuple[UsedModel, ...]
    thresholds: Mapping[str, float]
    classes: ClassTree
    tissue: TissueMap
    tiles: TileReport
    timings_s: Mapping[str, float]
    warnings: tuple[AnswerWarning, ...]
    origin: Origin
    flaws: Flaws
    object_diameter_px: float | None
    tta: Averaging


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionResult(ABC):
    """What was found in a region: all that an encoder may see. Each kind derives its own.

    All of it counts from the corner of level 0; `origin` says what written outlines count from.

    Attributes:
        classes: every class that what is found can be of.
        tissue: where tissue is.
        tiles: every tile accounted for.
        timings_s: seconds of work by stage, added up over threads.
        warnings: what makes the answer doubtful.
        flaws: ink and tissue out of focus, which do not count as tissue.
        area_shares: what the pipeline's companions cover.
        Others: see `Subject`.
    """

    kind: ClassVar[str]

    pipeline: str
    coordinate_space: CoordinateSpace
    facts: SlideFacts
    region_l0: Box
    mpp: Mpp
    models: tuple[UsedModel, ...]
    thresholds: Mapping[str, float]
    classes: ClassTree
    tissue: TissueMap
    tiles: TileReport
    timings_s: Mapping[str, float]
    warnings: tuple[AnswerWarning, ...] = ()
    origin: Origin = "slide"
    flaws: Flaws = field(default_factory=Flaws)
    area_shares: tuple[AreaShare, ...] = ()
    object_diameter_px: float | None = None
    tta: Averaging = "none"

    @property
    def physical_mpp(self) -> Mpp | None:
        """Micrometres per level-0 pixel where they are known; None: nothing may be stated in micrometres."""
        return self.mpp if self.object_diameter_px is None else None

    @property
    def origin_l0(self) -> tuple[int, int]:
        """The level-0 pixel (x, y) that output coordinates count from."""
        bounds = self.facts.bounds_l0
        return (bounds.x, bounds.y) if self.origin == "bounds" and bounds is not None else (0, 0)

    @property
    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How many of what the kind finds there are, by class name, zero included."""

    @property
    def cell_counts(self) -> dict[str, int]:
        """Cells by class name; empty for a kind that finds none."""
        return {}
