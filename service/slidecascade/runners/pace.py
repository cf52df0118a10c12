"""Decides how long a batch waits for further calls. Pure functions of the times passed in: no clock, no threads.

Let a run of `n` images take ``a + b * n`` seconds, let `c` calls with `n` images in total be queued while nothing
runs, and let the next call, of `m` images, be expected in `g` seconds. Summed over these ``c + 1`` calls, the
latency is ``(c + 1) * (a + b * n) + (a + b * m)`` when the batch runs at once, because the next call finds the
network busy, and ``(c + 1) * (g + a + b * (n + m))`` when it waits. Waiting is shorter when

    (c + 1) * g + c * b * m < a

`g` is measured separately for every number of queued calls: callers whose calls complete in one batch call again
at about the same time, so the next call is close after the first of them and far after the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SMOOTHING = 0.3
"""Weight of a new measurement in a running mean."""

_FIXED_SHARE = 0.75
"""Fraction of a run time taken as `a` while only one batch size was measured: enough to try a larger one once."""

_GAP_DEVIATIONS = 4.0
"""Mean deviations beyond the mean gap to wait for a late call (as TCP's retransmission timer: RFC 6298)."""

_MAX_CALLS = 64


class RunTimes:
    """Estimates the run time of a network on `n` images of one shape, from measured runs."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self.fixed_s = 0.0
        """`a`: seconds per run, independent of its size."""
        self.per_item_s = 0.0
        """`b`: seconds per image."""

    def observe(self, size: int, seconds: float) -> None:
        """Record that a run on `size` images took `seconds`."""
        known = self._seconds.get(size)
        # The first run may include compilation and allocation: a much shorter one replaces it.
        is_steady = known is not None and seconds > known / 2
        self._seconds[size] = known + _SMOOTHING * (seconds - known) if known and is_steady else seconds
        self._fit()

    def estimate(self, size: int) -> float:
        """Seconds for a run on `size` images; 0 before the first measurement."""
        return self._seconds.get(size) or self.fixed_s + self.per_item_s * size

    def _fit(self) -> None:
        if len(self._seconds) == 1:
            ((size, seconds),) = self._seconds.items()
            self.fixed_s, self.per_item_s = seconds * _FIXED_SHARE, seconds * (1 - _FIXED_SHARE) / size
            return
        sizes, seconds_of = np.array(list(self._seconds)), np.array(list(self._seconds.values()))
        spread = sizes - sizes.mean()
        self.per_item_s = max(0.0, float(spread @ seconds_of / (spread @ spread)))
        self.fixed_s = max(0.0, float(seconds_of.mean() - self.per_item_s * sizes.mean()))


@dataclass(slots=True)
class _Gap:
    """Running mean and mean deviation of a gap in seconds."""

    mean_s: float
    deviation_s: float

    def observe(self, seconds: float) -> None:
        self.deviation_s += _SMOOTHING * (abs(seconds - self.mean_s) - self.deviation_s)
        self.mean_s += _SMOOTHING * (seconds - self.mean_s)


class Pace:
    """Decides whether one queue waits for more calls. All times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self.times = RunTimes()
        self._gaps: dict[int, _Gap] = {}
        self._waiting_since: tuple[float, int] | None = None
        self._call_items = 1.0

    def arrived(self, now: float, items: int) -> None:
        """Record the arrival of a call of `items` images."""
        self._call_items += _SMOOTHING * (items - self._call_items)
        if self._waiting_since is None:
            return
        (since, calls), self._waiting_since = self._waiting_since, None
        run_s = self.times.estimate(1)
        if not run_s:
            return
        # A gap longer than a run is never worth waiting for, so larger values carry no information.
        gap = min(now - since, 2 * run_s)
        self._gaps.setdefault(calls, _Gap(gap, gap / 2)).observe(gap)

    def wait_until(self, now: float, *, calls: int, items: int, latest: float = math.inf) -> float:
        """Until when `calls` queued calls with `items` images wait for one more call; `now`: not at all.

        Args:
            latest: the earliest deadline of the calls.
        """
        calls = min(calls, _MAX_CALLS)
        if self._waiting_since is None or self._waiting_since[1] != calls:
            self._waiting_since = (now, calls)
        gap = self._gaps.get(calls)
        if gap is None:
            return now
        gain = self.times.fixed_s - calls * self.times.per_item_s * self._call_items
        longest = gain / (calls + 1)
        if gap.mean_s >= longest:
            return now
        until = self._waiting_since[0] + min(gap.mean_s + _GAP_DEVIATIONS * gap.deviation_s, longest)
        return max(now, min(until, latest - 2 * self.times.estimate(items)))


def batch_size(waiting: int, sizes: Sequence[int], times: RunTimes) -> int:
    """How many of `waiting` images to run now, when only batches of `sizes` (ascending) are run.

    Either all of them, padded to the next size, or a full smaller batch now and the rest later, whichever is
    estimated to be faster.
    """
    if waiting >= sizes[-1]:
        return sizes[-1]
    above = padded_size(waiting, sizes)
    below = max((size for size in sizes if size <= waiting), default=above)
    if below in (above, waiting):
        return waiting
    rest = times.estimate(padded_size(waiting - below, sizes))
    return below if times.estimate(below) + rest < times.estimate(above) else waiting


def padded_size(count: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` (ascending) that holds `count`; `count` itself beyond the largest."""
    return next((size for size in sizes if size >= count), count)
