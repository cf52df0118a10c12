"""Analysing a region: the only module that knows the order of things."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis import footprint
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.cells import cascade, seams
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis, FailedTile, TileReport, TissueMap, UsedModel
from slidecascade.cells.tile import TileFindings, TileWork
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    ModelFailedError,
    ModelPackageError,
    RetryLaterError,
    SlideCascadeError,
    TilesFailedError,
)
from slidecascade.geometry import Box, Grid, Size
from slidecascade.pipelines.load import Pipeline
from slidecascade.runners.runner import Runner, bound
from slidecascade.slides import tissue
from slidecascade.slides.tiling import Tile, cover, default_tile_px
from slidecascade.timing import Observer, Stopwatch
from slidecascade.warning import AnswerWarning

LOG = logging.getLogger(__name__)
SAMPLES, SAMPLE_PX = 5, 64
"""Dark-field is told from bright-field by 5 x 5 squares of this side, spread evenly over the region."""

MIN_UNSTORED = 0.01
"""Part of a region without stored pixels from which on the answer says so: scanners leave narrow gaps."""

Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles, in the thread that called `analyse`."""


def say_nothing(done: int, total: int) -> None:
    """The progress of those who do not ask."""


def hold_freely(size: int) -> None:
    """The memory of those who are alone."""


def analyse(
    task: RegionTask,
    *,
    runner: Runner,
    pool: Executor,
    threads: int,
    control: Control,
    observer: Observer,
    progress: Progress = say_nothing,
    hold: Callable[[int], None] = hold_freely,
) -> Analysis:
    """Find and classify the cells of a region.

    Args:
        pool: runs tiles; `threads` says how many at a time.
        control: asked between steps whether to go on.
        hold: called with the memory that the cells found so far take, in bytes; raises when there is not so much.

    Raises:
        RegionTooLargeError, OverloadedError: when `hold` says so.
        TilesFailedError: when tiles failed twice and the task does not allow a partial answer.
        RetryLaterError: when networks had too much to do, or were not there.
        ModelPackageError: when networks elsewhere are others than were asked for.
        DeadlineExceededError, CancelledError: when `control` says so.
        UnreadableSlideError, ModelFailedError: when every tile failed for that reason.
    """
    started = time.perf_counter()
    stopwatch = Stopwatch(observer)
    work = _prepare(task, runner, control, stopwatch)
    tiles = _tiles(task, work.grid, threads)
    outcomes: list[Outcome] = []
    held = 0
    for outcome in _in_flight(pool, threads + 1, lambda tile: _attempt(task, work, tile, observer), tiles):
        outcomes.append(outcome)
        if isinstance(outcome, TileFindings):
            held += footprint.cells_bytes(outcome.cells)
            hold(held)
        progress(len(outcomes), len(tiles))
    failed = tuple(outcome for outcome in outcomes if isinstance(outcome, _Failure))
    _refuse_failures(task, work.grid, failed, len(tiles))
    found = [(tile, out) for tile, out in zip(tiles, outcomes, strict=True) if isinstance(out, TileFindings)]
    with stopwatch.measure("collect"):
        cells = _collect(found, task.pipeline)
        ends = cascade.final_classes(cells.probabilities, task.pipeline, task.thresholds, len(cells))
        tissue_map = _tissue_map(found, work.grid)
    analysis = Analysis(
        pipeline=task.pipeline.name,
        coordinate_space=task.coordinate_space,
        region_l0=task.region_l0,
        mpp=task.mpp,
        models=_used_models(task.pipeline, work.grids),
        thresholds=task.thresholds,
        classes=task.pipeline.classes,
        instances=cells,
        class_index=ends,
        heatmaps=task.pipeline.heatmaps,
        tissue=tissue_map,
        tiles=_tile_report(task, work.grid, found, failed),
        timings_s={**stopwatch.seconds, "total": time.perf_counter() - started},
        warnings=_warnings(found, work.grid),
    )
    _tell(observer, analysis)
    return analysis


def _prepare(task: RegionTask, runner: Runner, control: Control, stopwatch: Stopwatch) -> TileWork:
    with stopwatch.measure("read"):
        with task.open_source() as source:
            view = task.view(source)
            grids = {model.name: view.grid(model.mpp) for model in task.pipeline.models}
        return TileWork(
            pipeline=task.pipeline,
            grids=grids,
            thresholds=task.thresholds,
            dark_field=tissue.is_dark_field(_samples(task, grids[task.pipeline.segmenter.name])),
            runner=bound(runner, control),
            control=control,
            stopwatch=stopwatch,
        )


def _samples(task: RegionTask, grid: Grid) -> NDArray[np.uint8]:
    """``(n, 1, 3)`` pixels from all over the region: cheap where an overview would read the whole of a slide.

    Squares that cannot be read are left out; the tiles that hold them account for them. If none can, there is
    one black pixel, and no tile will be readable either.
    """
    width, height = min(SAMPLE_PX, grid.size.width), min(SAMPLE_PX, grid.size.height)
    boxes = [
        Box(int(x), int(y), width, height)
        for y in np.linspace(0, grid.size.height - height, SAMPLES)
        for x in np.linspace(0, grid.size.width - width, SAMPLES)
    ]
    squares = [pixels.reshape(-1, 1, 3) for _, pixels in task.readable(grid, boxes)]
    squares.append(np.zeros((1, 1, 3), np.uint8))
    return np.concatenate(squares)


@dataclass(frozen=True, slots=True)
class _Failure:
    tile: Tile
    error: SlideCascadeError

    @property
    def reason(self) -> str:
        return f"{self.error.problem}: {self.error.detail}"


Outcome = TileFindings | _Failure


def _tiles(task: RegionTask, grid: Grid, threads: int) -> tuple[Tile, ...]:
    # Aligned to the network's stride and to tissue blocks, so that both are the same in every tiling.
    aligned_to = math.lcm(task.pipeline.segmenter.input.multiple_of, tissue.BLOCK_PX)
    halo_px = -(-task.pipeline.segmenter.halo_px // aligned_to) * aligned_to
    return cover(
        grid.size,
        tile_px=task.tile_px or default_tile_px(grid.size, threads, halo_px=halo_px),
        halo_px=halo_px,
        multiple_of=aligned_to,
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
    if isinstance(outcome, _Failure):
        observer.tiles("retried", 1)
        outcome = _once(task, work, tile, private=True)
    if isinstance(outcome, _Failure):
        if isinstance(outcome.error, (RetryLaterError, ModelPackageError)):
            raise outcome.error  # not this tile's fault: the whole region may succeed later
        LOG.error("a tile failed twice: %s", outcome.error.problem, exc_info=outcome.error)
    return outcome


def _once(task: RegionTask, work: TileWork, tile: Tile, *, private: bool = False) -> Outcome:
    try:
        with task.open_source(private=private) as source:
            return work.findings(tile, task.view(source))
    except (CancelledError, DeadlineExceededError):
        raise
    except SlideCascadeError as error:
        return _Failure(tile, error)
    except Exception:  # the worker boundary: a fault in one tile is that tile's failure
        LOG.exception("a tile failed unexpectedly")
        return _Failure(tile, ModelFailedError("The tile failed unexpectedly: see the service's log."))


def _refuse_failures(task: RegionTask, grid: Grid, failed: tuple[_Failure, ...], total: int) -> None:
    if not failed or (task.allow_partial and len(failed) < total):
        return
    first = failed[0].error
    if len(failed) == total and all(type(item.error) is type(first) for item in failed):
        raise first
    raise TilesFailedError(
        f"{len(failed)} of {total} tiles failed twice: try again, or send allow_partial to get the others.",
        tiles=tuple((_l0_box(task, grid, item.tile.core).as_tuple(), item.reason) for item in failed),
    ) from first


def _collect(found: list[tuple[Tile, TileFindings]], pipeline: Pipeline) -> Instances:
    """All cells once, from top to bottom, whatever tiles they were found in."""
    empty = Instances.empty([len(stage.model.classes) for stage in pipeline.stages])
    cells = Instances.concatenate([empty, *(out.cells for _, out in found)])
    keep = seams.settle(
        cells.centroids,
        cells.areas,
        tile_index=np.repeat([tile.index for tile, _ in found], [len(out.cells) for _, out in found]),
        owned=_joined([out.owned for _, out in found]),
        near_seam=_joined([out.near_seam for _, out in found]),
    )
    kept = np.flatnonzero(keep)
    return cells.take(kept[np.lexsort((cells.centroids[kept, 0], cells.centroids[kept, 1]))])


def _joined(masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(0, np.bool_), *masks])


def _tissue_map(found: list[tuple[Tile, TileFindings]], grid: Grid) -> TissueMap:
    block = tissue.BLOCK_PX
    size = Size(-(-grid.size.width // block), -(-grid.size.height // block))
    mask = np.zeros((size.height, size.width), np.bool_)
    for tile, out in found:
        rows, columns = out.tissue.shape
        top, left = tile.core.y // block, tile.core.x // block
        mask[top : top + rows, left : left + columns] = out.tissue
    return TissueMap(
        mask, Grid(grid.origin_x_l0, grid.origin_y_l0, grid.downsample * block, size, grid.mpp * block)
    )


def _warnings(found: list[tuple[Tile, TileFindings]], grid: Grid) -> tuple[AnswerWarning, ...]:
    """What makes the answer doubtful."""
    unstored = sum(out.unstored_px for _, out in found) / grid.size.area
    if unstored < MIN_UNSTORED:
        return ()
    message = (
        f"{unstored:.0%} of the region has no stored pixels and counts as glass: it was not scanned, or the file "
        "was not written to its end; look at it in a viewer."
    )
    return (AnswerWarning("no-stored-pixels", message),)


def _used_models(pipeline: Pipeline, grids: Mapping[str, Grid]) -> tuple[UsedModel, ...]:
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


def _l0_box(task: RegionTask, grid: Grid, box: Box) -> Box:
    """`box` in whole level-0 pixels inside the region; boxes that meet in the grid meet here."""
    left, top = grid.l0_from_grid(np.array([[box.x, box.y]]))[0]
    right, bottom = grid.l0_from_grid(np.array([[box.right, box.bottom]]))[0]
    x, y = round(left), round(top)
    return Box(x, y, round(right) - x, round(bottom) - y).clipped(task.region_l0)


def _tile_report(
    task: RegionTask, grid: Grid, found: list[tuple[Tile, TileFindings]], failed: tuple[_Failure, ...]
) -> TileReport:
    return TileReport(
        total=len(found) + len(failed),
        background=sum(not out.tissue.any() for _, out in found),
        failed=tuple(FailedTile(_l0_box(task, grid, item.tile.core), item.reason) for item in failed),
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
