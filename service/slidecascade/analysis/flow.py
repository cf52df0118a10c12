"""Analysing a region: the only module that knows the order of things."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidecascade.analysis.footprint import hold_freely
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    ModelFailedError,
    ModelPackageError,
    RetryLaterError,
    SlideCascadeError,
    TilesFailedError,
    UndecodableImageError,
)
from slidecascade.geometry import Grid, Size
from slidecascade.kinds.result import ModelRole, RegionResult, Subject, UsedModel
from slidecascade.kinds.sink import Sink, core_in_region_l0
from slidecascade.kinds.table import KINDS, Kind
from slidecascade.kinds.tile_result import AnyTileResult, TileFailure
from slidecascade.kinds.work import TileWork
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade.pipelines.spec import Pipeline
from slidecascade.runners.runner import Runner, bound
from slidecascade.slides.lastread import LastRead
from slidecascade.slides.tiling import Tile, cover, default_tile_px
from slidecascade.timing import Observer, Stopwatch

LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles, in the thread that called `analyse`."""


AnyWork = TileWork[Any, AnyTileResult]


def say_nothing(done: int, total: int) -> None:
    """Ignores progress."""


def analyse(
    task: RegionTask,
    *,
    runner: Runner,
    pool: Executor,
    threads: int,
    control: Control,
    observer: Observer,
    progress: Progress = say_nothing,
    kinds: Mapping[str, Kind] = KINDS,
    hold: Callable[[int], None] = hold_freely,
) -> RegionResult:
    """Find in a region what its pipeline finds.

    Args:
        pool: runs tiles; `threads` says how many at a time.
        control: asked between steps whether to go on.
        kinds: by name, that of the pipeline among them.
        hold: called with the memory that what was found so far takes, in bytes; raises when there is not so much.

    Raises:
        RegionTooLargeError, OverloadedError: when `hold` says so.
        TilesFailedError: when tiles failed twice and the task does not allow a partial answer.
        UndecodableImageError: when an upload that is being decoded is found to be damaged.
        RetryLaterError: when networks had too much to do, or were not there.
        ModelPackageError: when networks elsewhere are others than were asked for.
        DeadlineExceededError, CancelledError: when `control` says so.
        UnreadableSlideError, ModelFailedError: when every tile failed for that reason.
    """
    started = time.perf_counter()
    stopwatch = Stopwatch(observer)
    kind = kinds[task.pipeline.kind]
    work = prepare(task, kind, runner, control, stopwatch)
    tiles = _tiles(task, work, threads)
    sink = kind.sink(task.pipeline, task.region_l0, work.grid)
    held = _Held(sink, kind.footprint.kept, hold)
    failed = run_tiles(task, work, tiles, held, pool=pool, threads=threads, observer=observer, progress=progress)
    refuse_failures(task, work.grid, failed, len(tiles))
    with stopwatch.measure("collect"):
        found: RegionResult = sink.finish(subject(task, work.grids), sink.account())
    result = replace(found, timings_s={**stopwatch.seconds, "total": time.perf_counter() - started})
    _tell(observer, result)
    return result


class _Held:
    """A sink whose memory is held: `kept` says what a tile takes of it, `hold` raises when there is none."""

    def __init__(self, sink: Sink[Any], kept: Callable[[Any], int], hold: Callable[[int], None]) -> None:
        self._sink, self._kept, self._hold = sink, kept, hold
        self._bytes = 0

    def take(self, result: AnyTileResult, /) -> None:
        self._sink.take(result)
        self._bytes += self._kept(result)
        self._hold(self._bytes)

    def fail(self, failure: TileFailure, /) -> None:
        self._sink.fail(failure)


def run_tiles(
    task: RegionTask,
    work: AnyWork,
    tiles: Sequence[Tile],
    sink: Sink[Any],
    *,
    pool: Executor,
    threads: int,
    observer: Observer,
    progress: Progress = say_nothing,
) -> tuple[Failure, ...]:
    """Pass every tile to `sink`, in order, and return those that failed twice; nothing is kept of the others.

    Raises:
        RetryLaterError, ModelPackageError, DeadlineExceededError, CancelledError: as `analyse` does.
    """
    failed: list[Failure] = []
    outcomes = _in_flight(
        pool, threads + 1, lambda tile: _attempt(task, work, tile, observer), _readable(task, work, tiles)
    )
    for done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, Failure):
            failed.append(outcome)
            sink.fail(TileFailure(outcome.tile.index, outcome.tile.core, outcome.reason))
        else:
            sink.take(outcome)
        progress(done, len(tiles))
    return tuple(failed)


def prepare(task: RegionTask, kind: Kind, runner: Runner, control: Control, stopwatch: Stopwatch) -> AnyWork:
    """What all tiles of `task`, whose pipeline is of `kind`, share.

    Raises:
        UnreadableSlideError: the slide cannot be opened.
    """
    with stopwatch.measure("read"):
        with task.open_source() as source:
            view = task.view(source)
            grids = {model.name: view.grid(task.pipeline.mpp_of(model)) for model in task.pipeline.models}
        work: AnyWork = kind.work(
            pipeline=task.pipeline,
            region_l0=task.region_l0,
            grids=grids,
            thresholds=task.thresholds,
            find_facts=task.find_facts,
            channels=task.channels,
            stain=task.stain,
            tta=task.tta,
            runner=bound(runner, control),
            control=control,
            stopwatch=stopwatch,
        )
        return work


@dataclass(frozen=True, slots=True)
class Failure:
    """A tile that failed twice, and its last error."""

    tile: Tile
    error: SlideCascadeError

    @property
    def reason(self) -> str:
        return f"{self.error.problem}: {self.error.detail}"


Outcome = AnyTileResult | Failure


def _tiles(task: RegionTask, work: AnyWork, threads: int) -> tuple[Tile, ...]:
    needed, extent = work.needed, work.grid.size
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


def _readable(task: RegionTask, work: AnyWork, tiles: Iterable[Tile]) -> Iterator[Tile]:
    """`tiles`, each as soon as its pixels can be read: no thread for tiles waits for an upload to be decoded."""
    for tile in tiles:
        corner = np.array([[0, tile.read.bottom]])
        task.wait_for_rows(math.ceil(work.grid.l0_from_grid(corner)[0, 1]))
        yield tile


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


def _attempt(task: RegionTask, work: AnyWork, tile: Tile, observer: Observer) -> Outcome:
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


def _once(task: RegionTask, work: AnyWork, tile: Tile, *, private: bool = False) -> Outcome:
    try:
        with task.open_source(private=private) as source:
            return work.result(tile, task.view(LastRead(source)))
    except (CancelledError, DeadlineExceededError, UndecodableImageError):
        raise  # no tile of a damaged upload is answered
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


def subject(task: RegionTask, grids: Mapping[str, Grid]) -> Subject:
    """What `task` analyses, and with what; `grids` are those of its models, by name."""
    return Subject(
        pipeline=task.pipeline.name,
        coordinate_space=task.coordinate_space,
        facts=task.facts,
        region_l0=task.region_l0,
        mpp=task.mpp,
        models=used_models(task.pipeline, grids),
        thresholds=task.thresholds,
        doubts=task.doubts,
        origin=task.origin,
        object_diameter_px=task.object_diameter_px,
        tta=task.tta,
    )


def used_models(pipeline: Pipeline, grids: Mapping[str, Grid]) -> tuple[UsedModel, ...]:
    """The models of `pipeline` in the order in which they run, each with the grid it reads, by name in `grids`."""
    return tuple(
        UsedModel(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            role=_role(pipeline, model),
            grid=grids[model.name],
            classes=tuple(item.name for item in model.classes),
        )
        for model in pipeline.models
    )


def _role(pipeline: Pipeline, model: SegmenterSpec | ClassifierSpec) -> ModelRole:
    if model.name in [item.name for item in pipeline.companions]:
        return "companion"
    return "segmenter" if model.task == "segment" else "classifier"


def _tell(observer: Observer, result: RegionResult) -> None:
    tiles = result.tiles
    observer.tiles("done", tiles.total - tiles.background - len(tiles.failed))
    observer.tiles("background", tiles.background)
    observer.tiles("failed", len(tiles.failed))
    for name, count in result.cell_counts.items():
        observer.cells(result.pipeline, name, count)
    for warning in result.warnings:
        observer.warning(warning.code)
