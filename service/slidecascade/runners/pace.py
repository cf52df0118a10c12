"""When a batch is worth waiting for. Pure arithmetic on times it is told: no clock, no threads.

Let a run of `n` images take ``a + b * n`` seconds, let `c` calls with together `n` images wait while nothing
runs, and let the next call, of `m` images, be expected in `g` seconds. Added up over these ``c + 1`` calls,
running at once costs ``(c + 1) * (a + b * n) + (a + b * m)`` seconds of somebody's time, for the newcomer finds
the network busy; waiting for the newcomer costs ``(c + 1) * (g + a + b * (n + m))``. So it pays to wait when

    (c + 1) * g + c * b * m < a

`g` is measured separately for every number of waiting calls: callers who get their answers together come back
together, so the next is close when the first of them is there, and far when all of them are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NEWS = 0.3
"""Weight of a new reading in a running mean."""

_SHARED = 0.75
"""Part of a run taken to be `a` while only one batch size has been seen: enough to try a larger one once."""

_PATIENCE = 4.0
"""How many mean deviations beyond the mean to wait for a caller who is late (as TCP waits: RFC 6298)."""

_MOST_CALLS = 64


class RunTimes:
    """How long a network runs on `n` images of one shape, learned from its runs."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self.fixed_s = 0.0
        """`a`: seconds of a run whatever its size."""
        self.per_item_s = 0.0
        """`b`: seconds more for each image."""

    def observe(self, size: int, seconds: float) -> None:
        """A run on `size` images took `seconds`."""
        known = self._seconds.get(size)
        # A first run may compile and allocate: what is far below it replaces it.
        is_settled = known is not None and seconds > known / 2
        self._seconds[size] = known + _NEWS * (seconds - known) if known and is_settled else seconds
        self._fit()

    def estimate(self, size: int) -> float:
        """Seconds for a run on `size` images; 0 before anything is known."""
        return self._seconds.get(size) or self.fixed_s + self.per_item_s * size

    def _fit(self) -> None:
        if len(self._seconds) == 1:
            ((size, seconds),) = self._seconds.items()
            self.fixed_s, self.per_item_s = seconds * _SHARED, seconds * (1 - _SHARED) / size
            return
        sizes, seconds_of = np.array(list(self._seconds)), np.array(list(self._seconds.values()))
        spread = sizes - sizes.mean()
        self.per_item_s = max(0.0, float(spread @ seconds_of / (spread @ spread)))
        self.fixed_s = max(0.0, float(seconds_of.mean() - self.per_item_s * sizes.mean()))


@dataclass(slots=True)
class _Gap:
    """Running mean of a gap in seconds, and of how far readings are from it."""

    mean_s: float
    deviation_s: float

    def observe(self, seconds: float) -> None:
        self.deviation_s += _NEWS * (abs(seconds - self.mean_s) - self.deviation_s)
        self.mean_s += _NEWS * (seconds - self.mean_s)


class Pace:
    """Whether to wait for more, for one queue. All times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self.times = RunTimes()
        self._gaps: dict[int, _Gap] = {}
        self._asked: tuple[float, int] | None = None
        self._call_items = 1.0

    def arrived(self, now: float, items: int) -> None:
        """A call of `items` images came in."""
        self._call_items += _NEWS * (items - self._call_items)
        if self._asked is None:
            return
        (asked_at, calls), self._asked = self._asked, None
        run_s = self.times.estimate(1)
        if not run_s:
            return
        # Longer than a run is never worth waiting for, by how much does not matter.
        gap = min(now - asked_at, 2 * run_s)
        self._gaps.setdefault(calls, _Gap(gap, gap / 2)).observe(gap)

    def wait_until(self, now: float, *, calls: int, items: int, latest: float = math.inf) -> float:
        """Until when to wait for one more call while `calls` calls with `items` images do; `now`: not at all.

        Args:
            latest: when the first of the calls must have its answer.
        """
        calls = min(calls, _MOST_CALLS)
        if self._asked is None or self._asked[1] != calls:
            self._asked = (now, calls)
        gap = self._gaps.get(calls)
        if gap is None:
            return now
        gain = self.times.fixed_s - calls * self.times.per_item_s * self._call_items
        longest = gain / (calls + 1)
        if gap.mean_s >= longest:
            return now
        until = self._asked[0] + min(gap.mean_s + _PATIENCE * gap.deviation_s, longest)
        return max(now, min(until, latest - 2 * self.times.estimate(items)))


def batch_size(waiting: int, sizes: Sequence[int], times: RunTimes) -> int:
    """How many of `waiting` images to run now, when only batches of `sizes` (ascending) are run.

    All of them padded to the next size, or fewer in a full batch now and the rest later: what is faster.
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
