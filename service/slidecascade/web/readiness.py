"""Checks whether the networks can be run, in a thread, with one check for concurrent requests."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import NotReadyError
from slidecascade.metrics import Metrics
from slidecascade.web.pool import Pool

LOG = logging.getLogger(__name__)

PATIENCE_S: Final = 2.0
"""Timeout of a readiness request."""

_SCRAPE_S = 0.5
"""Timeout of a scrape: a hanging remote server must not make this process appear dead."""

_FIRST_S = 3.0
"""Delay of the first check after the start, when model processes have sent their first heartbeat."""


class Readiness:
    """Answers health checks, and updates the gauge at every scrape, so that alerts need no probes.

    A check of a hanging server takes many seconds: concurrent requests wait for the same check, not
    one after another, and get a result after their timeout. Used from the event loop only.
    """

    def __init__(self, analyser: Analyser, metrics: Metrics, *, retry_after_s: int) -> None:
        self._analyser = analyser
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        # A separate thread, so that a hanging disk does not make the process appear unready.
        self._pool = Pool(1, name="check")
        self._asked: asyncio.Future[None] | None = None
        self._asked_at = 0.0
        self._first: asyncio.Task[None] | None = None
        self._can_run = True
        self._closed = False

    def begin(self) -> asyncio.Task[None]:
        """Schedule a first check, so that the log reports missing networks; call it in the running event loop."""
        self._first = asyncio.get_running_loop().create_task(self._ask_first())
        return self._first

    def close(self) -> None:
        self._closed = True
        self._pool.close()

    async def require(self) -> None:
        """Wait for the check of all networks.

        Raises:
            NotReadyError: when a network cannot be run or did not respond in time.
        """
        await asyncio.wait({self._ask()}, timeout=PATIENCE_S)
        self._judge()

    async def update_gauge(self) -> None:
        """Update the gauge; it keeps its value until the check has a result."""
        asked = self._ask()
        await asyncio.wait({asked}, timeout=_SCRAPE_S)
        if not asked.done() and time.monotonic() < self._asked_at + PATIENCE_S:
            return
        try:
            self._judge()
        except NotReadyError:
            self._metrics.networks_ready(False)
        else:
            self._metrics.networks_ready(True)

    async def _ask_first(self) -> None:
        await asyncio.sleep(_FIRST_S)
        if not self._closed:
            with suppress(NotReadyError):
                await self.require()

    def _ask(self) -> asyncio.Future[None]:
        """The running check; a new one if the last has finished."""
        if self._asked is None or self._asked.done():
            self._asked = self._pool.submit(self._analyser.check_ready)
            self._asked_at = time.monotonic()
        return self._asked

    def _judge(self) -> None:
        """Raise NotReadyError if the check failed or has not finished."""
        try:
            if self._asked is None or not self._asked.done():
                raise NotReadyError(
                    f"The networks did not respond within {PATIENCE_S:g} s: check the server that runs them.",
                    retry_after_s=self._retry_after_s,
                )
            self._asked.result()
        except NotReadyError as error:
            if self._can_run:
                LOG.warning("networks cannot be run", extra={"fields": {"reason": error.detail}})
            self._can_run = False
            raise
        if not self._can_run:
            LOG.info("networks can be run again")
        self._can_run = True
