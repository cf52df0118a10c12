"""Threads in which blocking work runs, so that the event loop stays free for health checks."""

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
    """`threads` threads of this purpose only; a caller beyond them waits."""

    def __init__(self, threads: int, *, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin `work` in a thread, with the caller's context (so its log records carry the request id)."""
        call = partial(copy_context().run, work, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        # A result nobody came back for is not an event; its error was the caller's to see.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises."""
        return await self.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Begin nothing new; what runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
