"""One request's time limit and its cancellation."""

from __future__ import annotations

import math
import threading
import time

from slidecascade.errors import CancelledError, DeadlineExceededError


class Control:
    """Asked by the work between its steps whether to go on. Thread-safe.

    Args:
        deadline_s: seconds from now after which the work must stop; None: never.
    """

    def __init__(self, *, deadline_s: float | None = None) -> None:
        self._ends_at = None if deadline_s is None else time.monotonic() + deadline_s
        self._cancelled = threading.Event()

    @property
    def seconds_left(self) -> float:
        """Seconds until the time limit, negative after it; infinite without one."""
        return math.inf if self._ends_at is None else self._ends_at - time.monotonic()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def within(self, seconds: float | None) -> Control:
        """A control that ends with this one, or after so many seconds if that is sooner; None: this one."""
        if seconds is None or seconds >= self.seconds_left:
            return self
        sooner = Control(deadline_s=seconds)
        sooner._cancelled = self._cancelled
        return sooner

    def cancel(self) -> None:
        """Stop the work: nobody waits for the answer any more."""
        self._cancelled.set()

    def check(self) -> None:
        """Return when the work may go on.

        Raises:
            CancelledError: after `cancel`.
            DeadlineExceededError: after the time limit.
        """
        if self._cancelled.is_set():
            raise CancelledError("The request was cancelled.")
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            raise DeadlineExceededError(
                "The region was not done in time: send a smaller region or a longer deadline_s."
            )
