"""The coarse levels of slides whose stand-ins are shown: passes over all pixels of a slide, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from slidecascade.access.caller import Caller
from slidecascade.errors import SlideCascadeError
from slidecascade.web.pool import Pool

MOST_WAITING: Final = 32
"""Most passes that wait; beyond them none is begun until somebody asks again, as the page does."""


@dataclass(frozen=True, slots=True)
class Look:
    """A slide as a caller sees it; `channels` as in the request."""

    caller: Caller
    slide_id: str
    channels: str | None


class CoarseLevels:
    """Has levels made by `make`, in a thread of `pictures`. Used from the event loop only."""

    def __init__(self, make: Callable[[Look], None], pictures: Pool) -> None:
        self._make = make
        self._pictures = pictures
        self._waiting: dict[tuple[str | None, str], Look] = {}  # by caller and slide, the oldest first
        self._running: Look | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, look: Look) -> None:
        """Have the levels of a slide made.

        A caller waits for one look of a slide, the last one: whoever moves a contrast wants no other.
        """
        place = (look.caller.name, look.slide_id)
        if look == self._running:
            self._waiting.pop(place, None)
        elif place in self._waiting or len(self._waiting) < MOST_WAITING:
            self._waiting[place] = look
        if self._waiting and self._task is None:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                self._running = self._waiting.pop(next(iter(self._waiting)))
                # What is damaged is reported to those who ask for a tile.
                with suppress(SlideCascadeError):
                    await self._pictures.run(self._make, self._running)
        finally:
            self._running = self._task = None
