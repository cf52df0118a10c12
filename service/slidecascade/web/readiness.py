"""Whether the networks can be run: asked in a thread, and once for all who want to know at the same time."""

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
"""How long whoever asks is kept waiting."""

_SCRAPE_S = 0.5
"""How long a scrape is: a server that hangs must not make this process look dead."""

_FIRST_S = 3.0
"""After the start: by then services in processes of their own have been heard of."""


class Readiness:
    """Answers health checks, and tells the metrics at every scrape, so that an alert needs no one who probes.

    A server that hangs is given up after many seconds: those who ask meanwhile wait for the same question, not in
    line behind each other's, and get their result before it is answered. Used from the event loop only.
    """

    def __init__(self, analyser: Analyser, metrics: Metrics, *, retry_after_s: int) -> None:
        self._analyser = analyser
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        # A thread of its own, so that a disk that hangs does not make the process look unready.
        self._pool = Pool(1, name="check")
        self._asked: asyncio.Future[None] | None = None
        self._asked_at = 0.0
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
        await asyncio.wait({self._ask()}, timeout=PATIENCE_S)
        self._judge()

    async def tell(self) -> None:
        """Let the metrics say whether every network can be run; what they said holds until there is an answer."""
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
        """The question that is being asked: a new one, if the last has been answered."""
        if self._asked is None or self._asked.done():
            self._asked = self._pool.submit(self._analyser.check_ready)
            self._asked_at = time.monotonic()
        return self._asked

    def _judge(self) -> None:
        """What the answer says, which is no when there is none yet; raises NotReadyError."""
        try:
            if self._asked is None or not self._asked.done():
                raise NotReadyError(
                    f"The networks have not answered within {PATIENCE_S:g} s: look at the server that runs them.",
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
