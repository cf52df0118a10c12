"""Where the results of tiles go.

The flow hands over every tile once, in reading order, and keeps nothing: what memory an analysis takes is up to
its sink. The sink of a region keeps all tiles and makes a `RegionResult` of them; each kind derives its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import numpy as np

from slidecascade.geometry import Box, Grid, Size
from slidecascade.kinds.mosaic import paste
from slidecascade.kinds.result import (
    Account,
    CommonFields,
    FailedTile,
    RegionResult,
    Subject,
    TileReport,
    TissueMap,
)
from slidecascade.kinds.tile_result import AnyTileResult, TileFailure
from slidecascade.pipelines.spec import Pipeline
from slidecascade.slides import tissue
from slidecascade.slides.flaws import Flaws
from slidecascade.warning import AnswerWarning

MIN_UNSTORED = 0.01
"""Part of a region without stored pixels from which on the answer says so: scanners leave narrow gaps."""

MIN_INK = 0.02
MIN_BLURRED = 0.05
"""Parts of a region from which on the answer says that there is ink, or tissue out of focus."""

T = TypeVar("T", bound=AnyTileResult)
T_contra = TypeVar("T_contra", bound=AnyTileResult, contravariant=True)
P = TypeVar("P", bound=Pipeline)


class Sink(Protocol[T_contra]):
    """Takes the tiles of an analysis, in reading order, from one thread."""

    def take(self, result: T_contra, /) -> None:
        """A tile that was analysed, or found to be background."""
        ...

    def fail(self, failure: TileFailure, /) -> None:
        """A tile that failed twice."""
        ...


class KeepingSink(Generic[T]):
    """Keeps tiles in memory."""

    def __init__(self) -> None:
        self._results: list[T] = []
        self._failures: list[TileFailure] = []

    def take(self, result: T, /) -> None:
        self._results.append(result)

    def fail(self, failure: TileFailure, /) -> None:
        self._failures.append(failure)

    def flaws(self) -> Flaws:
        """Ink and tissue out of focus."""
        return Flaws.total(result.flaws for result in self._results)

    @property
    def unstored_px(self) -> float:
        """Pixels of the grid that are not stored."""
        return sum(result.unstored_px for result in self._results)

    @property
    def background(self) -> int:
        """Tiles without tissue."""
        return sum(result.is_background for result in self._results)

    def seen_px(self, region: Box) -> int:
        """Pixels of `region`, given in the grid of the tiles, that were analysed."""
        return sum(result.core.clipped(region).area for result in self._results)


class MemorySink(ABC, KeepingSink[T], Generic[P, T]):
    """Keeps the tiles of a region and makes its result of them.

    Args:
        pipeline: what is run.
        region_l0: the region, in level-0 pixels.
        grid: the one in which tiles are cut.
    """

    def __init__(self, pipeline: P, region_l0: Box, grid: Grid) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._region_l0 = region_l0
        self._grid = grid

    @abstractmethod
    def finish(self, subject: Subject, account: Account) -> RegionResult:
        """What all tiles together say of the region, without timings."""

    def account(self) -> Account:
        """Of the tiles that were taken and that failed."""
        failed = (
            FailedTile(core_in_region_l0(item.core, self._grid, self._region_l0), item.reason)
            for item in self._failures
        )
        tiles = TileReport(
            total=len(self._results) + len(self._failures), background=self.background, failed=tuple(failed)
        )
        return Account(tiles, self.seen_px(self._grid.box_from_l0(self._region_l0)))

    def common(self, subject: Subject, account: Account) -> CommonFields:
        """The fields that the results of all kinds have."""
        flaws, tissue = self.flaws(), self.tissue()
        doubts = warnings_of(unstored_px=self.unstored_px, account=account, flaws=flaws, tissue=tissue)
        return CommonFields(
            pipeline=subject.pipeline,
            coordinate_space=subject.coordinate_space,
            facts=subject.facts,
            region_l0=subject.region_l0,
            mpp=subject.mpp,
            models=subject.models,
            thresholds=subject.thresholds,
            classes=self._pipeline.classes,
            tissue=tissue,
            tiles=account.tiles,
            timings_s={},
            warnings=(*subject.doubts, *doubts),
            origin=subject.origin,
            flaws=flaws,
            object_diameter_px=subject.object_diameter_px,
            tta=subject.tta,
        )

    def tissue(self) -> TissueMap:
        """The tissue blocks of the slide that meet the region."""
        return tissue_map(self._results, self._region_l0, self._grid)


def tissue_map(results: Iterable[AnyTileResult], region_l0: Box, grid: Grid) -> TissueMap:
    """The tissue blocks of the slide that meet `region_l0`, put together from `results`; `grid` is theirs."""
    block, needed = tissue.BLOCK_PX, grid.box_from_l0(region_l0)
    left, top = needed.x // block, needed.y // block
    size = Size(-(-needed.right // block) - left, -(-needed.bottom // block) - top)
    mask = np.zeros((size.height, size.width), np.bool_)
    for result in results:
        rows, columns = result.tissue.shape
        place = Box(result.core.x // block, result.core.y // block, columns, rows)
        paste(result.tissue, place, mask, Box(left, top, size.width, size.height))
    corner_x, corner_y = grid.l0_from_grid(np.array([[left, top]]) * block)[0].tolist()
    return TissueMap(mask, Grid(corner_x, corner_y, grid.downsample * block, size, grid.mpp * block))


def warnings_of(
    *, unstored_px: float, account: Account, flaws: Flaws, tissue: TissueMap
) -> tuple[AnswerWarning, ...]:
    """What makes an answer doubtful when so many of the pixels seen, in the segmenter's grid, are not stored, are
    ink or are out of focus, or when no tissue is left."""
    parts = [share / max(1, account.seen_px) for share in (unstored_px, flaws.ink_px, flaws.blurred_px)]
    found = []
    if parts[0] >= MIN_UNSTORED:
        message = (
            f"{parts[0]:.0%} of the region has no stored pixels and counts as glass: it was not scanned, or the "
            "file was not written to its end; look at it in a viewer."
        )
        found.append(AnswerWarning("no-stored-pixels", message))
    if parts[1] >= MIN_INK:
        message = (
            f"{parts[1]:.0%} of the region looks like ink and is left out of the tissue: analyse a region without "
            "it, or check what was found beside it."
        )
        found.append(AnswerWarning("ink", message))
    if parts[2] >= MIN_BLURRED:
        message = (
            f"{parts[2]:.0%} of the region is out of focus and is left out of the tissue: scan the slide again, "
            "or do not rely on counts and densities of this region."
        )
        found.append(AnswerWarning("out-of-focus", message))
    is_stored = parts[0] < 1 - MIN_UNSTORED
    if is_stored and not (tissue.mask.any() or account.tiles.failed):
        message = (
            "The region holds no tissue: all of it counts as glass or background, or is ink or out of focus, so "
            "nothing was analysed; choose another region, or look at the slide in a viewer."
        )
        found.append(AnswerWarning("nothing-analysed", message))
    return tuple(found)


def core_in_region_l0(core: Box, grid: Grid, region_l0: Box) -> Box:
    """`core` in whole level-0 pixels inside the region; boxes that meet in the grid meet here."""
    left, top = grid.l0_from_grid(np.array([[core.x, core.y]]))[0]
    right, bottom = grid.l0_from_grid(np.array([[core.right, core.bottom]]))[0]
    x, y = round(left), round(top)
    return Box(x, y, round(right) - x, round(bottom) - y).clipped(region_l0)
