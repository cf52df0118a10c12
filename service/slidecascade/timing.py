"""Measures the duration of stages, summed over threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Observer(Protocol):
    """Receives events of the processing of regions; called from worker threads."""

    def stage(self, name: str, seconds: float) -> None:
        """A stage of the flow (read, segment, decode, classify, collect, encode) took `seconds`."""

    def tiles(self, outcome: str, count: int) -> None:
        """`count` tiles ended as `outcome`: done, background, retried or failed."""

    def cells(self, pipeline: str, class_name: str, count: int) -> None:
        """`count` cells of a class were found."""

    def memory(self, reserved: int) -> None:
        """Regions in flight have so many bytes reserved now."""

    def warning(self, code: str) -> None:
        """A response contains a warning."""


class Stopwatch:
    """Measures the stages of one region and reports each measurement to an observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
            self._observer.stage(stage, seconds)

    @property
    def seconds(self) -> Mapping[str, float]:
        with self._lock:
            return dict(self._seconds)


class Silent:
    """An observer that discards all events."""

    def stage(self, name: str, seconds: float) -> None: ...

    def tiles(self, outcome: str, count: int) -> None: ...

    def cells(self, pipeline: str, class_name: str, count: int) -> None: ...

    def memory(self, reserved: int) -> None: ...

    def warning(self, code: str) -> None: ...
