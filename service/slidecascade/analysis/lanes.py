"""Threads for tiles, shared by regions that somebody waits for and by fields of jobs, which let those pass."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Work = tuple[Future[Any], Callable[[], Any]]


class Lanes:
    """`threads` threads with two ways in: what waits in `people` begins before anything that waits in `jobs`.

    Within a lane the order is that of asking. Work that has begun is not interrupted.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        # The number keeps the order, and the work itself from being compared.
        self._waiting: queue.PriorityQueue[tuple[int, int, _Work]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self.people: Executor = _Lane(self, 0)
        self.jobs: Executor = _Lane(self, 1)

    def submit(self, lane: int, call: Callable[[], T]) -> Future[T]:
        """`call`, to be done when nothing in a lane of a lower number waits."""
        future: Future[T] = Future()
        self._waiting.put((lane, next(self._numbers), (future, call)))
        try:
            self._threads.submit(self._do_next)
        except RuntimeError:  # the threads have been stopped
            self._cancel_waiting()
            raise
        return future

    def shutdown(self) -> None:
        """Cancel what waits, and wait for what has begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._cancel_waiting()
        self._threads.shutdown()

    def _do_next(self) -> None:
        """Whatever is first now; there is one call of this for each piece of work."""
        try:
            _, _, (future, call) = self._waiting.get_nowait()
        except queue.Empty:
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  # as executors do: it belongs to who waits for the result
            future.set_exception(error)
        else:
            future.set_result(result)

    def _cancel_waiting(self) -> None:
        while True:
            try:
                _, _, (future, _) = self._waiting.get_nowait()
            except queue.Empty:
                return
            future.cancel()


class _Lane(Executor):
    def __init__(self, lanes: Lanes, number: int) -> None:
        self._lanes = lanes
        self._number = number

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._lanes.submit(self._number, lambda: fn(*args, **kwargs))
