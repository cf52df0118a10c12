"""Which slides and pipelines the service has."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from slidecascade_client import AsyncClient, SlideCascadeClientError
from slidecascade_lis.orders import OrderItem
from slidecascade_lis.refusals import is_final
from slidecascade_lis.rejection import UNKNOWN_KEY, Finding

LOG = logging.getLogger("slidecascade.lis")
_KEPT_S: Final = 300.0
_PAUSE_S: Final = 5.0
_MAX_KEPT: Final = 50_000


class Catalogue:
    """Asks `client` about names and remembers for five minutes those that exist.

    While the service is away names are not checked: the order is accepted, and answered as failed if its slide
    turns out to be unknown.
    """

    def __init__(self, client: AsyncClient, *, slides_may_come_later: bool) -> None:
        self._client = client
        self._slides_may_come_later = slides_may_come_later
        self._known: dict[tuple[str, str], float] = {}
        self._away_until = 0.0

    async def findings(self, items: Iterable[OrderItem]) -> list[Finding]:
        """A finding for each unknown slide and pipeline of the orders."""
        found = []
        for item in items:
            if item.analysis is None:
                continue
            slide, pipeline = item.analysis.slide, item.analysis.pipeline
            if not await self._exists("pipeline", pipeline, self._client.pipeline):
                text = f"The service has no pipeline {pipeline!r}: correct the order or the configured table."
                found.append(Finding(UNKNOWN_KEY, text, item.pipeline_place))
            if not self._slides_may_come_later and not await self._exists("slide", slide, self._client.slide):
                text = f"The service has no slide {slide!r}: send the order again once it was scanned."
                found.append(Finding(UNKNOWN_KEY, text, item.slide_place))
        return found

    async def _exists(self, kind: str, name: str, ask: Callable[[str], Awaitable[object]]) -> bool:
        now = time.monotonic()
        if self._known.get((kind, name), 0.0) > now or self._away_until > now:
            return True
        try:
            await ask(name)
        except SlideCascadeClientError as error:
            if is_final(error):
                return False  # unknown, or no name that a slide can have
            LOG.warning("names are not checked", extra={"fields": {"reason": type(error).__name__}})
            self._away_until = time.monotonic() + _PAUSE_S
            return True
        if len(self._known) >= _MAX_KEPT:
            self._known.clear()
        self._known[kind, name] = now + _KEPT_S
        return True
