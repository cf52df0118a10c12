"""Handling of SIGTERM in commands that start processes or create folders."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FAILED = 1


@contextmanager
def unwinding() -> Iterator[None]:
    """In this context SIGTERM raises an exception, so that ``finally`` blocks clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(FAILED)
