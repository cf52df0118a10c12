"""Deadline and cancellation of a request."""

from __future__ import annotations

import math
import threading
import time

from slidecascade.errors import CancelledError, DeadlineExceededError


class Control:
    """The deadline and cancellation state of a request, checked between the steps of its work. Thread-safe.

    Args:
        deadline_s: seconds from now to the deadline; None: no deadline.
        is_job: nobody waits for the answer: networks run what people wait for first.
    """

    def __init__(self, *, deadline_s: float | None = None, is_job: bool = False) -> None:
        self.is_job = is_job
        self._ends_at = None if deadline_s is None else time.monotonic() + deadline_s
        self._cancelled = threading.Event()

    @property
    def seconds_left(self) -> float:
        """Seconds to the deadline, negative after it; infinite without one."""
        return math.inf if self._ends_at is None else self._ends_at - time.monotonic()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def within(self, seconds: float | None) -> Control:
        """A control with the earlier of this deadline and `seconds` from now; cancelled with this one."""
        if seconds is None or seconds >= self.seconds_left:
            return self
        sooner = Control(deadline_s=seconds, is_job=self.is_job)
        sooner._cancelled = self._cancelled
        return sooner

    def cancel(self) -> None:
        """Cancel the work, for example after a client disconnect."""
        self._cancelled.set()

    def check(self) -> None:
        """Check that the work may continue.

        Raises:
            CancelledError: after `cancel`.
            DeadlineExceededError: after the deadline.
        """
        if self._cancelled.is_set():
            raise CancelledError("The request was cancelled.")
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            raise DeadlineExceededError(
                "The region exceeded its deadline: send a smaller region or a longer deadline_s."
            )
