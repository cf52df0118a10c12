"""Whether the networks can be run: asked in a thread, and once for all who want to know at the same time."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from slidecascade.analyser import Analyser
from slidecascade.errors import NotReadyError
from slidecascade.metrics import Metrics
from slidecascade.web.pool import Pool

LOG = logging.getLogger(__name__)

PATIENCE_S: Final = 2.0
"""How long whoever asks is kept waiting: less than a probe or a scrape waits for an answer."""

_FIRST_S = 3.0
"""After the start: by then services in processes of their own have been heard of."""


class Readiness:
    """Answers health checks, and tells the metrics at every scrape, so that an alert needs no one who probes.

    A server that hangs is given up after many seconds: those who ask meanwhile wait for the same question, not in
    line behind each other's, and are told before it is answered. Used from the event loop only.
    """

    def __init__(self, analyser: Analyser, metrics: Metrics, *, retry_after_s: int) -> None:
        self._analyser = analyser
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        # A thread of its own, so that a disk that hangs does not make the process look unready.
        self._pool = Pool(1, name="check")
        self._asked: asyncio.Future[None] | None = None
        self._first: asyncio.Task[None] | None = None
        self._can_run = True
        self._closed = False

    def begin(self) -> asyncio.Task[None]:
        """Ask once soon, so that the log of a start says when networks are away; in the running event loop."""
        self._first = asyncio.get_running_loop().create_task(self._ask_first())
        return self._first

    def close(self) -> None:
        self._closed = True
        self._pool.close()

    async def require(self) -> None:
        """Return when every network can be run.

        Raises:
            NotReadyError: when one cannot, or has not answered in time.
        """
        try:
            await self._require()
        except NotReadyError as error:
            if self._can_run:
                LOG.warning("networks cannot be run", extra={"fields": {"reason": error.detail}})
            self._can_run = False
            raise
        if not self._can_run:
            LOG.info("networks can be run again")
        self._can_run = True

    async def tell(self) -> None:
        """Let the metrics say whether every network can be run."""
        try:
            await self.require()
        except NotReadyError:
            self._metrics.networks_ready(False)
        else:
            self._metrics.networks_ready(True)

    async def _ask_first(self) -> None:
        await asyncio.sleep(_FIRST_S)
        if not self._closed:
            await self.tell()

    async def _require(self) -> None:
        if self._asked is None or self._asked.done():
            self._asked = self._pool.submit(self._analyser.check_ready)
        asked = self._asked
        await asyncio.wait({asked}, timeout=PATIENCE_S)
        if not asked.done():
            raise NotReadyError(
                f"The networks have not answered within {PATIENCE_S:g} s: look at the server that runs them.",
                retry_after_s=self._retry_after_s,
            )
        asked.result()
