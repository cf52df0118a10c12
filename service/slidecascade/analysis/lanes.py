"""Threads for tiles: those of regions, which somebody waits for, and those of jobs, which yield the cores."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

JOB_NICENESS: Final = 5
"""How far threads of jobs stand back. Linux gives a thread of niceness 5 a third of the time of one of niceness 0:
where both want all cores a job keeps a quarter of them, and a region takes a third longer. Confined processes read
and decode for jobs and regions alike, and at niceness 0."""


class Lanes:
    """`threads` threads for regions (`people`), and as many for jobs (`jobs`).

    A tile of a region begins at once, however many tiles of jobs have begun: these take long and are not
    interrupted, but run more slowly meanwhile.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        self._people = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._jobs = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-job", initializer=stand_back)
        self.people: Executor = self._people
        self.jobs: Executor = self._jobs

    def shutdown(self) -> None:
        """Cancel what waits, and wait for what has begun."""
        for pool in (self._people, self._jobs):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._people, self._jobs):
            pool.shutdown()


def stand_back() -> None:
    """Let the other threads of this process go first, from now on; only Linux knows this of single threads."""
    if sys.platform == "linux":
        with suppress(PermissionError):  # a sandbox may forbid it: then all threads are equal
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(JOB_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
