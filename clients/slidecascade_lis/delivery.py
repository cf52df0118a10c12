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
        """Deliver the oldest message; False when there is nothing to deliver now."""
        found = await asyncio.to_thread(self._head)
        if found is None or found.next_at > time.time():
            return False
        try:
            await self._carrier.carry(found)
        except RefusedError as error:
            await self._dead(found, error.reason)
            return True
        except NotNowError as error:
            await self._failed(found, error)
            return False
        await self._commits.make(lambda change: change.delivered(found.position))
        return True

    def _head(self) -> Undelivered | None:
        with self._store.snapshot() as change:
            return change.next_undelivered(self._name)

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
