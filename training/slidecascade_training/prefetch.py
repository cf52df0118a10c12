"""Prefetches training batches in threads or processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from slidecascade.cores import usable_cores

Floats = npt.NDArray[np.float32]
_MOST_THREADS: Final = 8  # in batches; with 64 images of 299 px about 0.5 GB


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of a training step.

    Attributes:
        images: ``(N, H, W, 3)`` RGB, uint8 or float32 0 to 255; the recipe's scale and offset come later.
        targets: in the format of the recipe's loss, N rows.
        weights: ``(N,)``; None: equal weights.
    """

    images: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    weights: Floats | None = None


DrawBatch = Callable[[int], Batch]
"""The batch of a step, counted from 0: a function of the step only, so that a resumed run gets the same
batches."""

Drawn = TypeVar("Drawn")


class _Prefetcher(Generic[Drawn]):
    """Prefetches a few steps beyond the requested one."""

    def __init__(self, pool: Executor, draw: Callable[[int], Drawn], *, ahead: int, stop: int) -> None:
        self._pool, self._draw, self._ahead, self._stop = pool, draw, ahead, stop
        self._waiting: dict[int, Future[Drawn]] = {}

    def __call__(self, step: int) -> Drawn:
        for later in range(step, min(step + 1 + self._ahead, self._stop)):
            if later not in self._waiting:
                self._waiting[later] = self._pool.submit(self._draw, later)
        return self._waiting.pop(step).result()


@contextmanager
def prefetched(
    draw: Callable[[int], Drawn], *, stop: int, in_processes: bool = False
) -> Iterator[Callable[[int], Drawn]]:
    """`draw` with prefetching of steps below `stop`, a few for each worker.

    Args:
        draw: safe to be called from several threads at once; for processes, what `pickle` can copy.
        stop: the first step that is not requested.
        in_processes: for draws that hold the GIL, so that the accelerator is not idle.
    """
    if in_processes:
        workers = max(1, usable_cores() - 1)
        fresh = multiprocessing.get_context("spawn")  # forking a multithreaded process can deadlock
        pool: Executor = ProcessPoolExecutor(workers, mp_context=fresh, initializer=_hold, initargs=(draw,))
        source: Callable[[int], Drawn] = _draw_held
    else:
        workers = min(max(2, usable_cores()), _MOST_THREADS)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="draw")
        source = draw
    try:
        yield _Prefetcher(pool, source, ahead=2 * workers if in_processes else workers, stop=stop)
    finally:
        pool.shutdown(cancel_futures=True)


_held: list[Callable[[int], Any]] = []


def _hold(draw: Callable[[int], Any]) -> None:
    """Initialise a worker process: store `draw`, use one core, and end with the parent, also when that is killed:
    workers hold both ends of their queue, so that they would wait for its next step without an end."""
    import cv2

    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _held[:] = [draw]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_held(step: int) -> Any:
    return _held[0](step)
