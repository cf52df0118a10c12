"""Bodies on their way in: how many there may be, and what they may hold together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from slidecascade.errors import OverloadedError

MAX_BODIES: Final = 512
"""Most bodies that arrive at a time: fewer than there may be connections, so that slow ones leave some."""

FREE_BYTES: Final = 2**16
"""What each body may hold beside the bound: requests without an image are let in while large uploads fill it."""


class Arrivals:
    """At most `MAX_BODIES` bodies, which hold at most `max_bytes` together beyond `FREE_BYTES` each.

    A slow client takes none of the slots for work, and no memory that it has not filled. `report` gets the number
    of bodies and of their bytes after every change. Used from the event loop only.
    """

    def __init__(self, max_bytes: int, *, retry_after_s: int, report: Callable[[int, int], None]) -> None:
        self._max_bytes = max_bytes
        self._retry_after_s = retry_after_s
        self._report = report
        self._bodies: set[Arrival] = set()
        self._bytes = 0

    def begin(self) -> Arrival:
        """A body that begins to arrive; raises OverloadedError when there are too many."""
        if len(self._bodies) >= MAX_BODIES:
            raise OverloadedError(
                f"{MAX_BODIES} requests are being received, as many as this server takes: try again later.",
                retry_after_s=self._retry_after_s,
            )
        arrival = Arrival(self)
        self._bodies.add(arrival)
        self._report(len(self._bodies), self._bytes)
        return arrival

    def add(self, arrival: Arrival, count: int) -> None:
        """`count` bytes of it have arrived; raises OverloadedError when all bodies together hold too many."""
        if arrival not in self._bodies:
            return
        arrival.total_bytes += count
        self._bytes += count
        self._report(len(self._bodies), self._bytes)
        if arrival.total_bytes > FREE_BYTES and self._bytes > self._max_bytes + FREE_BYTES * len(self._bodies):
            raise OverloadedError(
                "The uploads that are being received fill the memory for them: try again later.",
                retry_after_s=self._retry_after_s,
            )

    def end(self, arrival: Arrival) -> None:
        """It has arrived, or never will; may be called again."""
        if arrival in self._bodies:
            self._bodies.discard(arrival)
            self._bytes -= arrival.total_bytes
            self._report(len(self._bodies), self._bytes)


class Arrival:
    """One body, `total_bytes` of which have arrived."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.total_bytes = 0

    def add(self, count: int) -> None:
        """See `Arrivals.add`."""
        self._arrivals.add(self, count)

    def end(self) -> None:
        """See `Arrivals.end`."""
        self._arrivals.end(self)
