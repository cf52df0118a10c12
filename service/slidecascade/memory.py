"""The memory that regions in flight share, in bytes.

A region reserves what it may take before it takes it: what decoding needs, its pixels, its cells and its answer.
One that does not fit waits its turn, first come first served; one that never could is refused. Fields of jobs take
what is left while no region waits. What is reserved
are bounds worked out beforehand (`slidecascade.analysis.footprint`), not measurements.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from slidecascade.cancellation import Control
from slidecascade.errors import OverloadedError, RegionTooLargeError

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where control groups of the second and the first version say how much a container may take."""

_LOOK_S = 0.1
"""How often one that waits looks whether anybody still waits for it."""


def usable_bytes(limits: tuple[Path, ...] = CGROUP_LIMITS) -> int:
    """Memory this process may take: the machine's, or the control group's where that is less."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in limits:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            least = min(least, int(path.read_text(encoding="ascii")))
    return least


class Share(Protocol):
    """What one region has of the memory."""

    def reserve(self, needed: int, control: Control) -> None:
        """Take `needed` bytes, once, as soon as they are there; blocks.

        Raises:
            RegionTooLargeError: there are never so many.
            OverloadedError: they were not there before the time limit of `control`.
            CancelledError: when `control` says so.
        """
        ...

    def require(self, size: int) -> None:
        """Hold `size` bytes at least, from now on.

        Raises:
            RegionTooLargeError: there are never so many.
            OverloadedError: they are not there now.
        """
        ...

    def shrink(self, kept: int) -> None:
        """Keep `kept` bytes at most and give back the others."""
        ...


class Unlimited:
    """The share of one who is alone, such as a command."""

    def reserve(self, needed: int, control: Control) -> None: ...

    def require(self, size: int) -> None: ...

    def shrink(self, kept: int) -> None: ...


UNLIMITED: Final = Unlimited()


class Budget:
    """`total` bytes for all regions together; usable from many threads.

    Args:
        notify: called with the number of bytes reserved, whenever it changes.
    """

    def __init__(self, total: int, *, retry_after_s: int, notify: Callable[[int], None]) -> None:
        self.total = total
        self._free = total
        self._retry_after_s = retry_after_s
        self._notify = notify
        self._changed = threading.Condition()
        self._queue: deque[BudgetShare] = deque()
        self._jobs: deque[BudgetShare] = deque()

    @property
    def waiting(self) -> int:
        """Regions that wait for their share."""
        return len(self._queue)

    def share(self, *, is_job: bool = False) -> BudgetShare:
        """A share of nothing yet; that of a job lets regions pass."""
        return BudgetShare(self, is_job=is_job)

    def _take(self, needed: int) -> None:
        """With the lock held."""
        self._free -= needed
        self._notify(self.total - self._free)
        self._changed.notify_all()

    def _too_large(self, needed: int) -> RegionTooLargeError:
        return RegionTooLargeError(
            f"The region may take {_mib(needed)} MiB of memory, and all regions together have {_mib(self.total)}: "
            "choose a smaller region, or raise SLIDECASCADE_MEMORY_MIB."
        )

    def _overloaded(self, needed: int) -> OverloadedError:
        return OverloadedError(
            f"The region may take {_mib(needed)} MiB of memory, and other regions hold what would be needed: "
            "try again later.",
            retry_after_s=self._retry_after_s,
        )


class BudgetShare:
    """A region's `Share` of a budget; `release` gives it back."""

    def __init__(self, budget: Budget, *, is_job: bool = False) -> None:
        self._budget = budget
        self._is_job = is_job
        self._held = 0

    def reserve(self, needed: int, control: Control) -> None:
        budget = self._budget
        if needed > budget.total:
            raise budget._too_large(needed)
        queue = budget._jobs if self._is_job else budget._queue
        with budget._changed:
            queue.append(self)
            try:
                while queue[0] is not self or budget._free < needed or (self._is_job and budget._queue):
                    if control.seconds_left <= 0 and not control.cancelled:
                        raise budget._overloaded(needed)
                    control.check()
                    budget._changed.wait(min(_LOOK_S, control.seconds_left))
                self._held += needed
                budget._take(needed)
            finally:
                queue.remove(self)
                budget._changed.notify_all()

    def require(self, size: int) -> None:
        budget = self._budget
        if size > budget.total:
            raise budget._too_large(size)
        with budget._changed:
            more = size - self._held
            if more > budget._free:
                raise budget._overloaded(size)
            if more > 0:
                self._held += more
                budget._take(more)

    def shrink(self, kept: int) -> None:
        with self._budget._changed:
            surplus = max(self._held - kept, 0)
            self._held -= surplus
            self._budget._take(-surplus)

    def release(self) -> None:
        """Give everything back; may be called more than once."""
        self.shrink(0)


def _mib(size: int) -> int:
    return -(-size // 2**20)
