"""Leaving in order: on SIGTERM finish what is in flight, refuse what is new, then let the server stop."""

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
_POLL_S = 0.05
_LAST_WORDS_S = 2.0
"""After the time of grace, how long the ``draining`` answers may take to be sent."""

Handler = Callable[[int, FrameType | None], object]


class Occupancy(Protocol):
    """Who is inside, such as an `Admission`."""

    @property
    def in_flight(self) -> int:
        """How many are."""
        ...

    def close(self) -> None:
        """Let nobody in any more; those inside go on."""
        ...

    def abandon(self) -> None:
        """Break off those inside."""
        ...


class Drain:
    """Takes the stop signals over from the server around it, which would close its listener at once.

    On the first signal `admission` is closed. When nothing is in flight, though not before `notice_s`, the signal
    is handed on to the server. After `grace_s` what is still in flight is abandoned. The same signal a second time
    ends the process at once, as if it had never been taken over.
    """

    def __init__(self, admission: Occupancy, *, notice_s: float, grace_s: float) -> None:
        self._admission = admission
        self._notice_s = notice_s
        self._grace_s = grace_s
        self._servers: dict[int, Handler] = {}
        self._received: set[int] = set()
        self._leaving: asyncio.Task[None] | None = None

    def take_over(self) -> None:
        """Install the handlers; to be called in the running event loop, once the server has installed its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread has signals: this process is somebody else's
        loop = asyncio.get_running_loop()

        def received(number: int, _frame: FrameType | None) -> None:
            if number in self._received:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._received.add(number)
            # The signal broke into whatever ran: its context, and with it its request id, is none of ours.
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
        if not await self._is_idle(ends_at):
            LOG.warning("abandoned", extra={"fields": {"in_flight": self._admission.in_flight}})
            self._admission.abandon()
            await self._is_idle(asyncio.get_running_loop().time() + _LAST_WORDS_S)
        LOG.info("stopping")
        self._servers[number](number, None)

    async def _is_idle(self, ends_at: float) -> bool:
        """Whether nothing was in flight before the loop's clock said `ends_at`."""
        while self._admission.in_flight:
            if asyncio.get_running_loop().time() >= ends_at:
                return False
            await asyncio.sleep(_POLL_S)
        return True
