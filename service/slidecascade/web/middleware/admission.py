"""How much is received and worked on at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from slidecascade.errors import DrainingError, OverloadedError
from slidecascade.metrics import Metrics
from slidecascade.web.arrivals import Arrival, Arrivals


def _not_counted(_count: int = 0) -> None:
    """What a place that nobody counts does."""


@dataclass
class Place:
    """One request's place: first among the bodies that arrive, then, from `enter` on, in a slot for work.

    `received` is called with the number of bytes of the body that have arrived, and raises OverloadedError when
    that is too much; `enter` takes the slot, and raises it when none is free. `work` is what a thread does for the
    request now, or did last: a thread cannot be stopped from outside, and one that outlasts its request keeps the
    slot until it ends, and with it what `release` gives back.
    """

    received: Callable[[int], None] = _not_counted
    enter: Callable[[], None] = _not_counted
    work: asyncio.Future[Any] | None = None
    release: Callable[[], None] = lambda: None


class Places:
    """At most `limit` requests of one kind are worked on at a time; `tell` learns of every change of their number.

    Their bodies arrive first, among the `arrivals`: a slow client takes no slot.
    """

    def __init__(
        self, limit: int, arrivals: Arrivals, *, full: str, retry_after_s: int, tell: Callable[[int], None]
    ) -> None:
        self._limit = limit
        self._arrivals = arrivals
        self._full = full
        self._retry_after_s = retry_after_s
        self._tell = tell
        self._held: set[asyncio.Timeout] = set()
        self._working: set[asyncio.Timeout] = set()
        self._outlasting: set[asyncio.Future[Any]] = set()

    @property
    def in_flight(self) -> int:
        """Requests whose body arrives or that are worked on, and threads that have outlasted theirs."""
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
            OverloadedError: when all slots are taken already, before a body is sent in vain; or too many arrive.
            DrainingError: when the work was abandoned.
        """
        self._require_slot()
        arrival = self._arrivals.begin()
        hold = asyncio.timeout(None)
        place = Place(arrival.add, partial(self._enter, hold, arrival))
        try:
            async with hold:
                self._held.add(hold)
                yield place
        except TimeoutError:
            if not hold.expired():
                raise
            raise DrainingError(
                "This server stopped before it was done: send the request again, to another server or later.",
                retry_after_s=self._retry_after_s,
            ) from None
        finally:
            arrival.end()
            self._held.discard(hold)
            self._working.discard(hold)
            if place.work is not None and not place.work.done():
                self._outlasting.add(place.work)
                place.work.add_done_callback(partial(self._ended, place.release))
            else:
                place.release()
            self._report()

    def _enter(self, hold: asyncio.Timeout, arrival: Arrival) -> None:
        arrival.end()
        self._require_slot()
        self._working.add(hold)
        self._report()

    def _require_slot(self) -> None:
        if self._taken >= self._limit:
            raise OverloadedError(self._full, retry_after_s=self._retry_after_s)

    @property
    def _taken(self) -> int:
        return len(self._working) + len(self._outlasting)

    def _report(self) -> None:
        self._tell(self._taken)

    def _ended(self, release: Callable[[], None], work: asyncio.Future[Any]) -> None:
        self._outlasting.discard(work)
        release()
        self._report()


class Admission:
    """At most `regions` regions and `inferences` inferences at a time; none once closed.

    The bodies of both together hold at most `max_arriving_bytes` while they arrive.

    Used from the event loop only.
    """

    def __init__(
        self, *, regions: int, inferences: int, max_arriving_bytes: int, retry_after_s: int, metrics: Metrics
    ) -> None:
        self._retry_after_s = retry_after_s
        self._metrics = metrics
        arrivals = Arrivals(max_arriving_bytes, retry_after_s=retry_after_s, report=metrics.arriving)
        self._regions = Places(
            regions,
            arrivals,
            full=f"{regions} regions are being analysed, as many as this server takes: try again later.",
            retry_after_s=retry_after_s,
            tell=metrics.regions,
        )
        self._inferences = Places(
            inferences,
            arrivals,
            full=f"{inferences} inferences are in flight, as many as this server takes: try again later.",
            retry_after_s=retry_after_s,
            tell=metrics.inferences,
        )
        self._closed = False
        metrics.limits(regions=regions, inferences=inferences)
        metrics.ready(True)

    @property
    def in_flight(self) -> int:
        """Regions and inferences, and those whose body arrives."""
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
