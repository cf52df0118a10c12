"""When to try again, and when to stop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

RETRIED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, bounded in tries and in time.

    A call is tried again after a connection error and after 429, 502, 503 and 504, also when the service may have
    received it. Repeating an analysis changes nothing on the server, jobs are submitted with an idempotency key,
    and `cancel`, `retry` and `delete` of a job take the rejection of a repetition for success where the job is in
    the wanted state. Before try ``n + 1`` the client waits as long as ``Retry-After`` asked, plus a random part of
    ``min(max_delay_s, base_delay_s * 2 ** (n - 1))``; the jitter stays on top of ``Retry-After`` because all
    rejected clients received the same value.
    (Full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)

    Attributes:
        max_tries: maximum number of attempts; 1 disables retries.
        max_elapsed_s: no try starts later than this many seconds after the first; nor after the call's own
            time limit, nor after ``deadline_s`` of an analysis. A wait that would end later is not begun.
        base_delay_s: the bound of the first wait, in seconds.
        max_delay_s: the bound of any wait, in seconds, ``Retry-After`` aside.
        jitter: a random number in [0, 1).
        clock: monotonic seconds.
    """

    max_tries: int = 8
    max_elapsed_s: float = 120.0
    base_delay_s: float = 0.5
    max_delay_s: float = 20.0
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.max_tries < 1:
            raise ValueError(f"max_tries must be at least 1, not {self.max_tries}.")
        if min(self.max_elapsed_s, self.base_delay_s, self.max_delay_s) < 0:
            raise ValueError("The times of a RetryPolicy are seconds from 0 on.")

    def delay_s(self, *, tries: int, retry_after_s: float | None) -> float:
        """Seconds to wait after `tries` failed tries."""
        # The exponent stops growing long before 2.0 ** n overflows.
        bound_s = min(self.max_delay_s, self.base_delay_s * 2.0 ** min(tries - 1, 32))
        return (retry_after_s or 0.0) + self.jitter() * bound_s


def read_retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds asked for by ``Retry-After`` (a number, or an HTTP date); None when absent or invalid.

    A date is counted from the answer's own ``Date``, so that a wrong clock on either side does not matter.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    due = _http_date(value)
    if due is None:
        return None
    now = _http_date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (due - now).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
