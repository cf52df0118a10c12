"""Delivers the outbox: one receiver's messages in their order, each until it is taken."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from slidecascade_lis.carriers import Carrier, NotNowError, RefusedError
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import Retries
from slidecascade_lis.records import Undelivered
from slidecascade_lis.store import Store, UnavailableStoreError

LOG = logging.getLogger("slidecascade.lis")
_LOOK_S: Final = 1.0
"""How often the outbox is read without being woken: another process may have asked for a message again."""
_TOGETHER: Final = 8
"""Messages whose delivery is written together: those that a kill may repeat."""
_UNWRITTEN_S: Final = 0.2
"""How long a slow receiver's delivery stays unwritten."""


class Delivery:
    """Delivers to one receiver. A message that it rejects is dead at once; one that it cannot take now is sent
    again with growing waits, and holds up those after it."""

    def __init__(self, name: str, retries: Retries, carrier: Carrier, store: Store, commits: Commits) -> None:
        self._name = name
        self._retries = retries
        self._carrier = carrier
        self._store = store
        self._commits = commits
        self._wake = asyncio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    delivered = await self._next()
                except UnavailableStoreError:
                    LOG.error("the outbox cannot be read")
                    delivered = False
                if not delivered:
                    await self._pause()
        finally:
            self._carrier.close()

    async def _next(self) -> bool:
        """Deliver the oldest messages; False when there is nothing more to deliver now."""
        pending = await asyncio.to_thread(self._pending)
        begun_at = time.monotonic()
        taken: list[int] = []
        try:
            for one in pending:
                # A time further away than any wait was written before the clock was set back.
                if 0 < one.next_at - time.time() <= self._retries.max_retry_s:
                    return False
                try:
                    await self._carrier.carry(one)
                    taken.append(one.position)
                except RefusedError as error:
                    await self._dead(one, error.reason)
                except NotNowError as error:
                    await self._failed(one, error)
                    return False
                if time.monotonic() - begun_at > _UNWRITTEN_S:
                    break
        finally:
            if taken:
                await self._commits.make(lambda change: change.delivered(taken))
        return bool(pending)

    def _pending(self) -> tuple[Undelivered, ...]:
        with self._store.snapshot() as change:
            return change.undelivered(self._name, limit=_TOGETHER)

    async def _dead(self, found: Undelivered, reason: str) -> None:
        LOG.error("a message is dead", extra={"fields": {"message_id": found.message_id, "reason": reason}})
        await self._commits.make(lambda change: change.dead(found.position, reason=reason))

    async def _failed(self, found: Undelivered, error: NotNowError) -> None:
        retries = self._retries
        if time.time() - found.created_at > retries.give_up_after_hours * 3600:
            await self._dead(found, error.reason)
            return
        wait_s = min(retries.max_retry_s, retries.first_retry_s * 2.0 ** min(found.attempts, 30))
        next_at = time.time() + max(wait_s, min(error.retry_after_s, retries.max_retry_s))
        LOG.warning(
            "a message was not delivered",
            extra={"fields": {"message_id": found.message_id, "reason": error.reason}},
        )
        await self._commits.make(
            lambda change: change.not_delivered(found.position, next_at=next_at, reason=error.reason)
        )

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return
