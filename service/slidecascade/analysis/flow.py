"""Analysing a region: the only module that knows the order of things."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass

from slidecascade.analysis.plan import RegionTask
from slidecascade.analysis.sink import MemorySink, Sink, core_in_region_l0
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, UsedModel
from slidecascade.cells.tile import TileWork
from slidecascade.cells.tile_result import TileFailure, TileResult
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    ModelFailedError,
    ModelPackageError,
    RetryLaterError,
    SlideCascadeError,
    TilesFailedError,
)
from slidecascade.geometry import Grid, Size
from slidecascade.pipelines.load import Pipeline
from slidecascade.runners.runner import Runner, bound
from slidecascade.slides.region import require_workable
from slidecascade.slides.tiling import Tile, cover, default_tile_px
from slidecascade.timing import Observer, Stopwatch

LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles, in the thread that called `analyse`."""


def say_nothing(done: int, total: int) -> None:
    """The progress of those who do not ask."""


def analyse(
    task: RegionTask,
    *,
    runner: Runner,
    pool: Executor,
    threads: int,
    control: Control,
    observer: Observer,
    progress: Progress = say_nothing,
) -> Analysis:
    """Find and classify the cells of a region.

    Args:
        pool: runs tiles; `threads` says how many at a time.
        control: asked between steps whether to go on.

    Raises:
        TilesFailedError: when tiles failed twice and the task does not allow a partial answer.
        RetryLaterError: when networks had too much to do, or were not there.
        ModelPackageError: when networks elsewhere are others than were asked for.
        DeadlineExceededError, CancelledError: when `control` says so.
        UnreadableSlideError, ModelFailedError: when every tile failed for that reason.
    """
    started = time.perf_counter()
    stopwatch = Stopwatch(observer)
    work = prepare(task, runner, control, stopwatch)
    tiles = _tiles(task, work, threads)
    sink = MemorySink(task.pipeline, task.region_l0, work.grid)
    failed = run_tiles(task, work, tiles, sink, pool=pool, threads=threads, observer=observer, progress=progress)
    refuse_failures(task, work.grid, failed, len(tiles))
    with stopwatch.measure("collect"):
        cells = sink.cells()
        ends, tissue_map = sink.classes(cells, task.thresholds), sink.tissue()
    analysis = Analysis(
        pipeline=task.pipeline.name,
        coordinate_space=task.coordinate_space,
        facts=task.facts,
        region_l0=task.region_l0,
        mpp=task.mpp,
        models=used_models(task.pipeline, work.grids),
        thresholds=task.thresholds,
        classes=task.pipeline.classes,
        instances=cells,
        class_index=ends,
        heatmaps=task.pipeline.heatmaps,
        tissue=tissue_map,
        tiles=sink.report(),
        timings_s={**stopwatch.seconds, "total": time.perf_counter() - started},
        warnings=sink.warnings(),
    )
    _tell(observer, analysis)
    return analysis


def run_tiles(
    task: RegionTask,
    work: TileWork,
    tiles: Sequence[Tile],
    sink: Sink,
    *,
    pool: Executor,
    threads: int,
    observer: Observer,
    progress: Progress = say_nothing,
) -> tuple[Failure, ...]:
    """Hand every tile to `sink`, in order; nothing is kept of those that did not fail, which are returned.

    Raises:
        RetryLaterError, ModelPackageError, DeadlineExceededError, CancelledError: as `analyse` does.
    """
    failed: list[Failure] = []
    outcomes = _in_flight(pool, threads + 1, lambda tile: _attempt(task, work, tile, observer), tiles)
    for done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, Failure):
            failed.append(outcome)
            sink.fail(TileFailure(outcome.tile.index, outcome.tile.core, outcome.reason))
        else:
            sink.take(outcome)
        progress(done, len(tiles))
    return tuple(failed)


def prepare(task: RegionTask, runner: Runner, control: Control, stopwatch: Stopwatch) -> TileWork:
    """What all tiles of `task` share.

    Raises:
        UnreadableSlideError: the slide cannot be opened.
        RegionTooLargeError: a model's grid enlarges the region to more pixels than are worked on.
    """
    with stopwatch.measure("read"):
        with task.open_source() as source:
            view = task.view(source)
            grids = {model.name: view.grid(model.mpp) for model in task.pipeline.models}
        for grid in grids.values():
            require_workable(task.region_l0, grid)
        return TileWork(
            pipeline=task.pipeline,
            region_l0=task.region_l0,
            grids=grids,
            thresholds=task.thresholds,
            dark_field=task.facts.dark_field,
            runner=bound(runner, control),
            control=control,
            stopwatch=stopwatch,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A tile that failed twice, and its last error."""

    tile: Tile
    error: SlideCascadeError

    @property
    def reason(self) -> str:
        return f"{self.error.problem}: {self.error.detail}"


Outcome = TileResult | Failure


def _tiles(task: RegionTask, work: TileWork, threads: int) -> tuple[Tile, ...]:
    needed, extent = work.grid.box_from_l0(task.region_l0), work.grid.size
    if task.tile_px is None:
        side = default_tile_px(needed, extent, threads, halo_px=work.halo_px, multiple_of=work.aligned_to)
    else:
        side = Size(task.tile_px, task.tile_px)
    return cover(
        needed,
        extent,
        tile_px=side,
        halo_px=work.halo_px,
        multiple_of=work.aligned_to,
        shift_x=task.shift[0],
        shift_y=task.shift[1],
    )


def _in_flight(
    pool: Executor, limit: int, work: Callable[[Tile], Outcome], items: Iterable[Tile]
) -> Iterator[Outcome]:
    """Results of `work` in the order of `items`, with at most `limit` of them begun and not yet taken."""
    pending: deque[Future[Outcome]] = deque()
    try:
        for item in items:
            if len(pending) >= limit:
                yield pending.popleft().result()
            # In a copy of this thread's context, so that a tile's log lines carry the request's id.
            pending.append(pool.submit(copy_context().run, work, item))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _attempt(task: RegionTask, work: TileWork, tile: Tile, observer: Observer) -> Outcome:
    """Work on a tile; once more if that failed."""
    outcome = _once(task, work, tile)
    if isinstance(outcome, Failure):
        observer.tiles("retried", 1)
        outcome = _once(task, work, tile, private=True)
    if isinstance(outcome, Failure):
        if isinstance(outcome.error, (RetryLaterError, ModelPackageError)):
            raise outcome.error  # not this tile's fault: the whole region may succeed later
        LOG.error("a tile failed twice: %s", outcome.error.problem, exc_info=outcome.error)
    return outcome


def _once(task: RegionTask, work: TileWork, tile: Tile, *, private: bool = False) -> Outcome:
    try:
        with task.open_source(private=private) as source:
            return work.result(tile, task.view(source))
    except (CancelledError, DeadlineExceededError):
        raise
    except SlideCascadeError as error:
        return Failure(tile, error)
    except Exception:  # the worker boundary: a fault in one tile is that tile's failure
        LOG.exception("a tile failed unexpectedly")
        return Failure(tile, ModelFailedError("The tile failed unexpectedly: see the service's log."))


def refuse_failures(task: RegionTask, grid: Grid, failed: Sequence[Failure], total: int) -> None:
    """Raises for `failed` of `total` tiles, unless `task` allows a partial answer and there is one.

    Raises:
        TilesFailedError, UnreadableSlideError, ModelFailedError: as `analyse` does.
    """
    if not failed or (task.allow_partial and len(failed) < total):
        return
    first = failed[0].error
    if len(failed) == total and all(type(item.error) is type(first) for item in failed):
        raise first
    raise TilesFailedError(
        f"{len(failed)} of {total} tiles failed twice: try again, or send allow_partial to get the others.",
        tiles=tuple(
            (core_in_region_l0(item.tile.core, grid, task.region_l0).as_tuple(), item.reason) for item in failed
        ),
    ) from first


def used_models(pipeline: Pipeline, grids: Mapping[str, Grid]) -> tuple[UsedModel, ...]:
    """The models of `pipeline` in the order in which they run, each with the grid it reads, by name in `grids`."""
    return tuple(
        UsedModel(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            role="segmenter" if model.task == "segment" else "classifier",
            grid=grids[model.name],
            classes=tuple(item.name for item in model.classes),
        )
        for model in pipeline.models
    )


def _tell(observer: Observer, analysis: Analysis) -> None:
    tiles = analysis.tiles
    observer.tiles("done", tiles.total - tiles.background - len(tiles.failed))
    observer.tiles("background", tiles.background)
    observer.tiles("failed", len(tiles.failed))
    for name, count in analysis.counts.items():
        observer.cells(analysis.pipeline, name, count)
    for warning in analysis.warnings:
        observer.warning(warning.code)
