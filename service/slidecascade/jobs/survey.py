"""All fields of one slide: what is to be done, what is done, and the work on one of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from slidecascade import __version__
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.flow import Progress, refuse_failures, say_nothing, used_models
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.errors import InvalidRequestError, SlideChangedError, TilesFailedError
from slidecascade.geometry import Box, Grid, Size
from slidecascade.jobs.fields import FIELD_TILES, TILE_PX, Field, FieldSink, plan_fields
from slidecascade.jobs.parts import FieldReport, Parts, Plan
from slidecascade.kinds.result import FailedTile, TileReport, TissueMap
from slidecascade.kinds.sink import core_in_region_l0
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.pipelines.spec import Pipeline
from slidecascade.timing import Stopwatch

LOG = logging.getLogger(__name__)


class Survey:
    """The fields of `task` and the folder of their parts.

    Args:
        folder: where parts are kept; those of another slide, pipeline or options are removed.
        field_tiles: tiles of a field each way.
        attempt: of a job, whose parts must be those of this plan: None, or a greater attempt than the one the
            parts are of, begins anew.

    Raises:
        SlideChangedError, ModelChangedError: the parts of this attempt are of another slide, or of other models.
        InvalidRequestError: the pipeline is not of the kind cells.
        UnreadableSlideError: the slide cannot be opened.
        RegionTooLargeError: a model's grid enlarges it too much.
        UnwritableOutputError: the folder cannot be written.
    """

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
        self.pipeline: CellsPipeline = cells_pipeline(task.pipeline)
        work = analyser.tile_work(task, Control(), Stopwatch(analyser.observer))
        self.grids = work.grids
        self.grid: Grid = work.grid
        self.fields: tuple[Field, ...] = plan_fields(task, work, threads=analyser.threads, field_tiles=field_tiles)
        self.parts = Parts(folder, _plan(task, self.pipeline, field_tiles, len(self.fields)), attempt=attempt)
        models = used_models(task.pipeline, self.grids)
        nothing = Instances.empty([len(stage.model.classes) for stage in self.pipeline.stages])
        place = Grid(0, 0, 1, Size(1, 1), task.mpp)
        self.blank = Analysis(
            pipeline=task.pipeline.name,
            coordinate_space=task.coordinate_space,
            facts=task.facts,
            region_l0=task.region_l0,
            mpp=task.mpp,
            models=models,
            thresholds=task.thresholds,
            classes=task.pipeline.classes,
            instances=nothing,
            class_index=np.zeros(0, np.int64),
            heatmaps=self.pipeline.heatmaps,
            tissue=TissueMap(np.zeros((1, 1), np.bool_), place),
            tiles=TileReport(total=0, background=0, failed=()),
            timings_s={},
            warnings=task.doubts,
            origin=task.origin,
        )
        """An analysis with everything but cells, tissue and numbers."""

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
        sink = FieldSink(field, self.pipeline, self.grid, region=work.needed)
        failed = self._analyser.run_tiles(self.task, work, field.tiles, sink, progress=progress)
        self._require_same_slide()  # before the part is written, and before tiles are reported as unreadable
        if not self.task.allow_partial:
            refuse_failures(self.task, self.grid, failed, len(field.tiles))
        with stopwatch.measure("collect"):
            result = sink.result(self.task.thresholds)
            analysis = replace(self.blank, instances=result.cells, class_index=result.class_index)
        report = self.parts.write(result, analysis, stopwatch.seconds)
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

    def _tell(self, report: FieldReport) -> None:
        observer = self._analyser.observer
        observer.tiles("done", report.tiles - report.background - len(report.failed))
        observer.tiles("background", report.background)
        observer.tiles("failed", len(report.failed))
        for name, count in report.counts.items():
            observer.cells(self.blank.pipeline, name, count)


def cells_pipeline(pipeline: Pipeline) -> CellsPipeline:
    """`pipeline`, when it is of the kind that fields can be cut for.

    Raises:
        InvalidRequestError: it is of another kind.
    """
    if not isinstance(pipeline, CellsPipeline):
        message = (
            f"Jobs run pipelines of the kind cells, and {pipeline.name!r} is of the kind {pipeline.kind}: "
            "analyse regions of the slide with it."
        )
        raise InvalidRequestError(message, (("pipeline", message),))
    return pipeline


def _plan(task: RegionTask, pipeline: CellsPipeline, field_tiles: int, fields: int) -> Plan:
    specs = [model.model_dump_json() for model in pipeline.models]
    parts = [__version__, *specs, repr(pipeline.stages), repr(task.facts)]
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
