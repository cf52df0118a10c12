"""How many regions are worked on at a time, told before a byte of a body is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from slidecascade.errors import DrainingError, OverloadedError
from slidecascade.metrics import Metrics


@dataclass
class Place:
    """One region's place; `work` is what a thread does for it now, or did last.

    A thread cannot be stopped from outside: one that outlasts its request keeps the place until it ends.
    """

    work: asyncio.Future[Any] | None = None


class Admission:
    """At most `limit` regions at a time; none once closed. Used from the event loop only."""

    def __init__(self, *, limit: int, retry_after_s: int, metrics: Metrics) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._metrics = metrics
        self._held: set[asyncio.Timeout] = set()
        self._outlasting: set[asyncio.Future[Any]] = set()
        self._closed = False
        metrics.places(limit=limit, ready=True)

    @property
    def in_flight(self) -> int:
        """Places taken: by requests, and by threads that have outlasted theirs."""
        return len(self._held) + len(self._outlasting)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let nobody in any more; those inside go on."""
        self._closed = True
        self._metrics.places(limit=self._limit, ready=False)

    def abandon(self) -> None:
        """Break off those inside: each is answered ``draining``."""
        now = asyncio.get_running_loop().time()
        for hold in self._held:
            if not hold.expired():
                hold.reschedule(now)

    def require_open(self) -> None:
        """Raises DrainingError once closed."""
        if self._closed:
            raise DrainingError(
                "This server is stopping: send the request again, to another server or later.",
                retry_after_s=self._retry_after_s,
            )

    @asynccontextmanager
    async def region(self) -> AsyncIterator[Place]:
        """One region's place, held until its answer has been sent and its thread has ended.

        Raises:
            OverloadedError: when all places are taken.
            DrainingError: once closed, or when the work was abandoned.
        """
        self.require_open()
        if self.in_flight >= self._limit:
            raise OverloadedError(
                f"{self._limit} regions are being analysed, as many as this server takes: try again later.",
                retry_after_s=self._retry_after_s,
            )
        hold, place = asyncio.timeout(None), Place()
        try:
            async with hold:
                self._held.add(hold)
                self._metrics.regions(self.in_flight)
                yield place
        except TimeoutError:
            if not hold.expired():
                raise
            raise DrainingError(
                "This server stopped before the region was done: send the request again, to another server or "
                "later.",
                retry_after_s=self._retry_after_s,
            ) from None
        finally:
            self._held.discard(hold)
            if place.work is not None and not place.work.done():
                self._outlasting.add(place.work)
                place.work.add_done_callback(self._ended)
            self._metrics.regions(self.in_flight)

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._outlasting.discard(work)
        self._metrics.regions(self.in_flight)
