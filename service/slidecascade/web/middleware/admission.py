"""Admission control: limits of concurrent requests and of arriving bodies."""

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
    """The callback of an uncounted slot."""


@dataclass
class Place:
    """The place of one request: first among the arriving bodies, then, after `enter`, in a slot for work.

    `received` is called with the number of bytes of the body that have arrived, and raises OverloadedError above
    the limit; `enter` takes the slot, and raises it when none is free. `work` is the current or last work of a
    thread for the request: a thread cannot be stopped from outside, and one that outruns its request keeps
    the slot, and what `release` returns, until it ends.
    """

    received: Callable[[int], None] = _not_counted
    enter: Callable[[], None] = _not_counted
    work: asyncio.Future[Any] | None = None
    release: Callable[[], None] = lambda: None


class Places:
    """Slots for at most `limit` concurrent requests of one kind; `set_gauge` is called when their number changes.

    Bodies are received before, among the `arrivals`, so that a slow client takes no slot.
    """

    def __init__(
        self, limit: int, arrivals: Arrivals, *, full: str, retry_after_s: int, set_gauge: Callable[[int], None]
    ) -> None:
        self._limit = limit
        self._arrivals = arrivals
        self._full = full
        self._retry_after_s = retry_after_s
        self._set_gauge = set_gauge
        self._held: set[asyncio.Timeout] = set()
        self._working: set[asyncio.Timeout] = set()
        self._outlasting: set[asyncio.Future[Any]] = set()

    @property
    def in_flight(self) -> int:
        """The number of requests being received or processed, and of threads that run longer than theirs."""
        return len(self._held) + len(self._outlasting)

    def abandon(self) -> None:
        """Break off those inside: each is answered ``draining``."""
        now = asyncio.get_running_loop().time()
        for hold in self._held:
            if not hold.expired():
                hold.reschedule(now)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Place]:
        """A place, released after its request was answered and its thread has ended.

        Raises:
            OverloadedError: when all slots are taken, before the body is received; or too many bodies arrive.
            DrainingError: when the work is abandoned.
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
                "This server stopped before the request was finished: send it again, to another server or later.",
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
        self._set_gauge(self._taken)

    def _ended(self, release: Callable[[], None], work: asyncio.Future[Any]) -> None:
        self._outlasting.discard(work)
        release()
        self._report()


class Admission:
    """At most `regions` concurrent regions and `inferences` inferences; none after `close`.

    While they arrive, the bodies of both together take at most `max_arriving_bytes`.

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
            full=f"{regions} regions are being analysed, the maximum of this server: try again later.",
            retry_after_s=retry_after_s,
            set_gauge=metrics.regions,
        )
        self._inferences = Places(
            inferences,
            arrivals,
            full=f"{inferences} inferences are in flight, the maximum of this server: try again later.",
            retry_after_s=retry_after_s,
            set_gauge=metrics.inferences,
        )
        self._closed = False
        metrics.limits(regions=regions, inferences=inferences)
        metrics.ready(True)

    @property
    def in_flight(self) -> int:
        """The number of regions and inferences, including those being received."""
        return self._regions.in_flight + self._inferences.in_flight

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Reject new requests; those in flight continue."""
        self._closed = True
        self._metrics.ready(False)

    def abandon(self) -> None:
        """Break off those inside: each is answered ``draining``."""
        self._regions.abandon()
        self._inferences.abandon()

    def require_open(self) -> None:
        """Raise DrainingError after `close`."""
        if self._closed:
            raise DrainingError(
                "This server is stopping: send the request again, to another server or later.",
                retry_after_s=self._retry_after_s,
            )

    def region(self) -> AbstractAsyncContextManager[Place]:
        """A region's place; see `Places.take`. Raises DrainingError after `close`."""
        return self._admit(self._regions)

    def inference(self) -> AbstractAsyncContextManager[Place]:
        """An inference's place; see `region`."""
        return self._admit(self._inferences)

    @asynccontextmanager
    async def _admit(self, places: Places) -> AsyncIterator[Place]:
        self.require_open()
        async with places.take() as place:
            yield place
