"""All fields of one slide: what is to be done, what is done, and the work on one of them.

What a field gives, how it is kept and what the fields are collected to is up to the kind of pipeline: each kind
derives its own `Survey`, which `table.py` lists.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from slidecascade import __version__
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.flow import Progress, refuse_failures, say_nothing, subject
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.errors import SlideChangedError, TilesFailedError
from slidecascade.geometry import Box, Grid
from slidecascade.jobs.fields import FIELD_TILES, TILE_PX, Field, plan_fields
from slidecascade.jobs.parts import FieldReport, Parts, Plan, require_same_plan
from slidecascade.kinds.result import Account, FailedTile, RegionResult, TileReport
from slidecascade.kinds.sink import Sink, core_in_region_l0
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.files import Overview
from slidecascade.timing import Stopwatch

LOG = logging.getLogger(__name__)

OUTPUTS = frozenset({"geojson", "parquet", "heatmaps", "grid", "mask", "rle"})
"""The names of outputs of jobs; a kind writes those that it supports."""


class FieldSink(Sink[Any], Protocol):
    """Takes the tiles of one field, in reading order."""

    def keep(self, seconds: Mapping[str, float]) -> FieldReport:
        """Write the field's part; `seconds` of work by stage.

        Raises:
            UnwritableOutputError: nothing of the field was written.
            ModelFailedError: a number is not finite.
        """
        ...


class Results(Protocol):
    """All fields of a slide, collected."""

    @property
    def analysis(self) -> RegionResult:
        """What the fields say together; of what is written part by part it may hold nothing."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of what the kind finds there are, by class."""
        ...

    def write(
        self,
        folder: Path,
        overview: Overview,
        *,
        colormap: Colormap = Colormap.VIRIDIS,
        outputs: Container[str] = OUTPUTS,
        gzip: bool = True,
    ) -> None:
        """Write the files into `folder`; each appears whole or not at all, and ``summary.json`` last.

        Raises:
            UnwritableOutputError: the folder cannot be made or written.
            UnreadablePartError: a part is gone or damaged.
        """
        ...


class Survey(ABC):
    """The fields of `task` and the folder of their parts. Each kind derives its own.

    `writes` names the outputs that the kind has.

    Args:
        folder: where parts are kept; those of another slide, pipeline or options are removed.
        field_tiles: tiles of a field each way.
        attempt: of a job, whose parts must be those of this plan: None, or a greater attempt than the one the
            parts are of, begins anew.

    Raises:
        SlideChangedError, ModelChangedError: the parts of this attempt are of another slide, or of other models.
        UnreadableSlideError: the slide cannot be opened.
        RegionTooLargeError: a model's grid enlarges it too much.
        UnwritableOutputError: the folder cannot be written.
    """

    writes: ClassVar[frozenset[str]]

    def __init__(
        self,
        analyser: Analyser,
        task: RegionTask,
        folder: Path,
        *,
        field_tiles: int = FIELD_TILES,
        attempt: int | None = None,
    ) -> None:
        self._analyser = analyser
        self.task = task
        work = analyser.tile_work(task, Control(), Stopwatch(analyser.observer))
        self.grids = work.grids
        self.grid: Grid = work.grid
        self.fields: tuple[Field, ...] = plan_fields(task, work, threads=analyser.threads, field_tiles=field_tiles)
        plan = _plan(task, self.recipe, field_tiles, len(self.fields))
        if attempt is not None:
            require_same_plan(folder, plan, attempt)
        self.parts: Parts = self.open_parts(folder, plan)
        if attempt is not None:
            self.parts.pin(attempt)
        self.subject = subject(task, self.grids)

    def open_parts(self, folder: Path, plan: Plan) -> Parts:
        """The folder of parts; a kind may derive its own."""
        return Parts(folder, plan)

    @property
    @abstractmethod
    def recipe(self) -> str:
        """What of the pipeline the parts depend on, beyond its models and thresholds."""

    @abstractmethod
    def sink(self, field: Field, region: Box) -> FieldSink:
        """Takes the tiles of `field`; `region` is what is analysed, in pixels of the grid."""

    @abstractmethod
    def collect(self, reports: Sequence[FieldReport], *, seconds: float) -> Results:
        """The fields as one result, when each has its report.

        Raises:
            TilesFailedError: all tiles failed.
            UnreadablePartError: a part is gone or damaged.
        """

    @property
    def tiles_total(self) -> int:
        return sum(len(field.tiles) for field in self.fields)

    def memory_bytes(self, field: Field) -> int:
        """Memory of what may be found in `field`."""
        core_l0 = core_in_region_l0(field.core, self.grid, self.task.region_l0)
        return self._analyser.expected_bytes(self.task.pipeline, core_l0, self.grids)

    def reports(self) -> Iterator[tuple[Field, FieldReport | None]]:
        """Every field with its report; None: it is to be run, again where tiles failed that must not."""
        for field in self.fields:
            yield field, self.done(field)

    def done(self, field: Field) -> FieldReport | None:
        """The report of `field`; None: it is to be run."""
        report = self.parts.report(field.index)
        is_done = report is not None and (self.task.allow_partial or not report.failed)
        return report if is_done else None

    def run(self, field: Field, control: Control, *, progress: Progress = say_nothing) -> FieldReport:
        """Work on `field` and keep its part; `progress(done, total)` is called after each of its tiles.

        Raises:
            SlideChangedError: the slide was replaced; UnknownSlideError: it is gone.
            TilesFailedError, UnreadableSlideError, ModelFailedError: tiles failed, and a partial answer is not
                allowed; no part is written.
            RetryLaterError, DeadlineExceededError, CancelledError, UnwritableOutputError
        """
        self._require_same_slide()
        stopwatch = Stopwatch(self._analyser.observer)
        work = self._analyser.tile_work(self.task, control, stopwatch)
        sink = self.sink(field, self.grid.box_from_l0(self.task.region_l0))
        failed = self._analyser.run_tiles(self.task, work, field.tiles, sink, progress=progress)
        self._require_same_slide()  # before the part is written, and before tiles are reported as unreadable
        if not self.task.allow_partial:
            refuse_failures(self.task, self.grid, failed, len(field.tiles))
        report = sink.keep(stopwatch.seconds)
        self._tell(report)
        return report

    def _require_same_slide(self) -> None:
        with self.task.open_source() as source:
            if source.content_id != self.task.facts.content_id:
                raise SlideChangedError(
                    "The slide was replaced while it was analysed: put the first one back, or start again with "
                    "the new one."
                )

    def failed_tiles(self, reports: list[FieldReport]) -> tuple[FailedTile, ...]:
        """All tiles that failed twice.

        Raises:
            TilesFailedError: all did.
        """
        failed = tuple(
            FailedTile(core_in_region_l0(Box(*tile.core), self.grid, self.task.region_l0), tile.reason)
            for report in reports
            for tile in report.failed
        )
        if failed and len(failed) == sum(report.tiles for report in reports):
            raise TilesFailedError(
                f"All {len(failed)} tiles failed twice: see their reasons.",
                tiles=tuple((tile.core_l0.as_tuple(), tile.reason) for tile in failed[:100]),
            )
        return failed

    def account(self, reports: Sequence[FieldReport]) -> Account:
        """What became of the tiles of all fields; raises what `failed_tiles` does."""
        tiles = TileReport(
            total=sum(report.tiles for report in reports),
            background=sum(report.background for report in reports),
            failed=self.failed_tiles(list(reports)),
        )
        return Account(tiles, sum(report.seen_px for report in reports))

    def _tell(self, report: FieldReport) -> None:
        observer = self._analyser.observer
        observer.tiles("done", report.tiles - report.background - len(report.failed))
        observer.tiles("background", report.background)
        observer.tiles("failed", len(report.failed))
        for name, count in report.counts.items():
            observer.cells(self.task.pipeline.name, name, count)


def summed(reports: Sequence[FieldReport]) -> dict[str, float]:
    """Seconds of work by stage."""
    stages = dict.fromkeys(stage for report in reports for stage in report.seconds)
    return {stage: sum(report.seconds.get(stage, 0.0) for report in reports) for stage in stages}


def _plan(task: RegionTask, recipe: str, field_tiles: int, fields: int) -> Plan:
    specs = [model.model_dump_json() for model in task.pipeline.models]
    parts = [__version__, *specs, recipe, repr(task.facts), repr((task.object_diameter_px, task.tta))]
    return Plan(
        content_id=task.facts.content_id,
        pipeline=task.pipeline.name,
        region_l0=task.region_l0.as_tuple(),
        mpp=task.mpp,
        thresholds=dict(sorted(task.thresholds.items())),
        tile_px=task.tile_px or TILE_PX,
        field_tiles=field_tiles,
        fields=fields,
        edition=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
    )
