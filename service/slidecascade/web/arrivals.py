"""Limits of the bodies being received: their number and their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from slidecascade.errors import OverloadedError

MAX_BODIES: Final = 512
"""Maximum concurrent bodies; below the connection limit, so that slow ones leave connections free."""

FREE_BYTES: Final = 2**16
"""Bytes of each body that do not count, so that requests without an image are accepted beside large uploads."""


class Arrivals:
    """At most `MAX_BODIES` bodies, with at most `max_bytes` in total beyond `FREE_BYTES` each.

    A slow client takes no slot for work, and only the memory it has filled. `report` gets the number
    of bodies and of their bytes after every change. Used from the event loop only.
    """

    def __init__(self, max_bytes: int, *, retry_after_s: int, report: Callable[[int, int], None]) -> None:
        self._max_bytes = max_bytes
        self._retry_after_s = retry_after_s
        self._report = report
        self._bodies: set[Arrival] = set()
        self._bytes = 0

    def begin(self) -> Arrival:
        """Add a body; raises OverloadedError when there are too many."""
        if len(self._bodies) >= MAX_BODIES:
            raise OverloadedError(
                f"{MAX_BODIES} requests are being received, the maximum of this server: try again later.",
                retry_after_s=self._retry_after_s,
            )
        arrival = Arrival(self)
        self._bodies.add(arrival)
        self._report(len(self._bodies), self._bytes)
        return arrival

    def add(self, arrival: Arrival, count: int) -> None:
        """Count `count` received bytes; raises OverloadedError when the total exceeds the limit."""
        if arrival not in self._bodies:
            return
        arrival.total_bytes += count
        self._bytes += count
        self._report(len(self._bodies), self._bytes)
        if arrival.total_bytes > FREE_BYTES and self._bytes > self._max_bytes + FREE_BYTES * len(self._bodies):
            raise OverloadedError(
                "The uploads being received fill the memory reserved for them: try again later.",
                retry_after_s=self._retry_after_s,
            )

    def end(self, arrival: Arrival) -> None:
        """Remove the body; may be called repeatedly."""
        if arrival in self._bodies:
            self._bodies.discard(arrival)
            self._bytes -= arrival.total_bytes
            self._report(len(self._bodies), self._bytes)


class Arrival:
    """One body with `total_bytes` received."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.total_bytes = 0

    def add(self, count: int) -> None:
        """See `Arrivals.add`."""
        self._arrivals.add(self, count)

    def end(self) -> None:
        """See `Arrivals.end`."""
        self._arrivals.end(self)
