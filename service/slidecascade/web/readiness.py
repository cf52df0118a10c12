"""Whether the networks can be run: asked in a thread, and once for all who want to know at the same time."""

from __future__ import annotations

import asyncio
from typing import Final

from slidecascade.analyser import Analyser
from slidecascade.errors import NotReadyError
from slidecascade.metrics import Metrics
from slidecascade.web.pool import Pool

PATIENCE_S: Final = 2.0
"""How long whoever asks is kept waiting: less than a probe or a scrape waits for an answer."""


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

    def close(self) -> None:
        self._pool.close()

    async def require(self) -> None:
        """Return when every network can be run.

        Raises:
            NotReadyError: when one cannot, or has not answered in time.
        """
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

    async def tell(self) -> None:
        """Let the metrics say whether every network can be run."""
        try:
            await self.require()
        except NotReadyError:
            self._metrics.networks_ready(False)
        else:
            self._metrics.networks_ready(True)
