"""Being told to stop, for commands that have started processes or made folders."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FAILED = 1


@contextmanager
def unwinding() -> Iterator[None]:
    """In this block SIGTERM leaves by way of all ``finally``; by default it would leave everything behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has signals
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(FAILED)
