"""How much is worked on at a time, told before a byte of a body is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from slidecascade.errors import DrainingError, OverloadedError
from slidecascade.metrics import Metrics


@dataclass
class Place:
    """One request's place; `work` is what a thread does for it now, or did last.

    A thread cannot be stopped from outside: one that outlasts its request keeps the place until it ends, and with
    it what `release` gives back.
    """

    work: asyncio.Future[Any] | None = None
    release: Callable[[], None] = lambda: None


class Places:
    """At most `limit` requests of one kind at a time; `tell` learns of every change of their number."""

    def __init__(self, limit: int, *, full: str, retry_after_s: int, tell: Callable[[int], None]) -> None:
        self._limit = limit
        self._full = full
        self._retry_after_s = retry_after_s
        self._tell = tell
        self._held: set[asyncio.Timeout] = set()
        self._outlasting: set[asyncio.Future[Any]] = set()

    @property
    def in_flight(self) -> int:
        """Places taken: by requests, and by threads that have outlasted theirs."""
        return len(self._held) + len(self._outlasting)

    def abandon(self) -> None:
        """Break off those inside: each is answered ``draining``."""
        now = asyncio.get_running_loop().time()
        for hold in self._held:
            if not hold.expired():
                hold.reschedule(now)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Place]:
        """A place, held until its request was answered and its thread has ended.

        Raises:
            OverloadedError: when all places are taken.
            DrainingError: when the work was abandoned.
        """
        if self.in_flight >= self._limit:
            raise OverloadedError(self._full, retry_after_s=self._retry_after_s)
        hold, place = asyncio.timeout(None), Place()
        try:
            async with hold:
                self._held.add(hold)
                self._tell(self.in_flight)
                yield place
        except TimeoutError:
            if not hold.expired():
                raise
            raise DrainingError(
                "This server stopped before it was done: send the request again, to another server or later.",
                retry_after_s=self._retry_after_s,
            ) from None
        finally:
            self._held.discard(hold)
            if place.work is not None and not place.work.done():
                self._outlasting.add(place.work)
                place.work.add_done_callback(partial(self._ended, place.release))
            else:
                place.release()
            self._tell(self.in_flight)

    def _ended(self, release: Callable[[], None], work: asyncio.Future[Any]) -> None:
        self._outlasting.discard(work)
        release()
        self._tell(self.in_flight)


class Admission:
    """At most `regions` regions and `inferences` inferences at a time; none once closed.

    Used from the event loop only.
    """

    def __init__(self, *, regions: int, inferences: int, retry_after_s: int, metrics: Metrics) -> None:
        self._retry_after_s = retry_after_s
        self._metrics = metrics
        self._regions = Places(
            regions,
            full=f"{regions} regions are being analysed, as many as this server takes: try again later.",
            retry_after_s=retry_after_s,
            tell=metrics.regions,
        )
        self._inferences = Places(
            inferences,
            full=f"{inferences} inferences are in flight, as many as this server takes: try again later.",
            retry_after_s=retry_after_s,
            tell=metrics.inferences,
        )
        self._closed = False
        metrics.limits(regions=regions, inferences=inferences)
        metrics.ready(True)

    @property
    def in_flight(self) -> int:
        """Regions and inferences."""
        return self._regions.in_flight + self._inferences.in_flight

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let nobody in any more; those inside go on."""
        self._closed = True
        self._metrics.ready(False)

    def abandon(self) -> None:
        """Break off those inside: each is answered ``draining``."""
        self._regions.abandon()
        self._inferences.abandon()

    def require_open(self) -> None:
        """Raises DrainingError once closed."""
        if self._closed:
            raise DrainingError(
                "This server is stopping: send the request again, to another server or later.",
                retry_after_s=self._retry_after_s,
            )

    def region(self) -> AbstractAsyncContextManager[Place]:
        """A region's place; see `Places.take`, and raises DrainingError once closed."""
        return self._admit(self._regions)

    def inference(self) -> AbstractAsyncContextManager[Place]:
        """An inference's place, as `region`."""
        return self._admit(self._inferences)

    @asynccontextmanager
    async def _admit(self, places: Places) -> AsyncIterator[Place]:
        self.require_open()
        async with places.take() as place:
            yield place
