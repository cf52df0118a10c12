"""Threads for blocking work, which keep the event loop responsive for health checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A pool of `threads` threads; further work is queued."""

    def __init__(self, threads: int, *, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start `work` in a thread, in the caller's context, so that its log records contain the request id."""
        call = partial(copy_context().run, work, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        # Retrieve the exception of an abandoned result, which asyncio would log as never retrieved.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread and wait; returns its result or raises its error."""
        return await self.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Start no more work; running work is not awaited."""
        self._executor.shutdown(wait=False, cancel_futures=True)
