"""Graceful shutdown: on SIGTERM finish requests in flight, reject new ones, then stop the server."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Protocol

LOG = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT)
WAITING = "waiting for requests in flight"
"""The log message at the end of the notice, when the listener stays open only for requests in flight."""

_POLL_S = 0.05
_LAST_WORDS_S = 2.0
"""Time for sending the ``draining`` responses after the grace period."""

Handler = Callable[[int, FrameType | None], object]


class Occupancy(Protocol):
    """Counts requests in flight, such as an `Admission`."""

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        ...

    def close(self) -> None:
        """Reject new requests; those in flight continue."""
        ...

    def abandon(self) -> None:
        """Cancel the requests in flight."""
        ...


class Drain:
    """Handles the stop signals in place of the server, which would close its listener immediately.

    The first signal closes `admission`. When nothing is in flight, but not before `notice_s`, the signal
    is passed to the server. After `grace_s` the requests in flight are cancelled. A second signal of the same kind
    ends the process immediately.
    """

    def __init__(self, admission: Occupancy, *, notice_s: float, grace_s: float) -> None:
        self._admission = admission
        self._notice_s = notice_s
        self._grace_s = grace_s
        self._servers: dict[int, Handler] = {}
        self._received: set[int] = set()
        self._leaving: asyncio.Task[None] | None = None

    def take_over(self) -> None:
        """Install the handlers; call it in the running event loop, after the server has installed its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread handles signals: the process belongs to another program
        loop = asyncio.get_running_loop()

        def received(number: int, _frame: FrameType | None) -> None:
            if number in self._received:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._received.add(number)
            # The handler runs in the context of the interrupted code, which may have a request id.
            loop.call_soon_threadsafe(self._begin, number, context=Context())

        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._servers[number] = handler
                signal.signal(number, received)

    def _begin(self, number: int) -> None:
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave(number))

    async def _leave(self, number: int) -> None:
        LOG.info("draining", extra={"fields": {"in_flight": self._admission.in_flight}})
        self._admission.close()
        ends_at = asyncio.get_running_loop().time() + self._grace_s
        await asyncio.sleep(min(self._notice_s, self._grace_s))
        if in_flight := self._admission.in_flight:
            LOG.info(WAITING, extra={"fields": {"in_flight": in_flight}})
        if not await self._is_idle(ends_at):
            LOG.warning("abandoned", extra={"fields": {"in_flight": self._admission.in_flight}})
            self._admission.abandon()
            await self._is_idle(asyncio.get_running_loop().time() + _LAST_WORDS_S)
        LOG.info("stopping")
        self._servers[number](number, None)

    async def _is_idle(self, ends_at: float) -> bool:
        """Wait until nothing is in flight; False at the loop time `ends_at`."""
        while self._admission.in_flight:
            if asyncio.get_running_loop().time() >= ends_at:
                return False
            await asyncio.sleep(_POLL_S)
        return True
