"""Delivers the outbox: one receiver's messages in their order, each until it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from slidecascade_lis.charsets import encoded
from slidecascade_lis.config import Receiver
from slidecascade_lis.peer import Peer, PeerUnavailableError
from slidecascade_lis.records import Undelivered
from slidecascade_lis.store import Store, UnavailableStoreError

LOG = logging.getLogger("slidecascade.lis")
_LOOK_S: Final = 1.0
"""How often the outbox is read without being woken: another process may have asked for a message again."""


class Delivery:
    """Delivers to one receiver. A message that it rejects (AE, CE) is dead at once; one that it cannot take now
    (AR, CR, no reply) is sent again with growing waits, and holds up those after it."""

    def __init__(self, name: str, receiver: Receiver, store: Store) -> None:
        self._name = name
        self._receiver = receiver
        self._store = store
        self._wake = asyncio.Event()
        tls = receiver.tls.context() if receiver.tls else None
        self._peer = Peer(
            receiver.host,
            receiver.port,
            tls=tls,
            server_name=receiver.tls.server_name if receiver.tls else None,
            reply_s=receiver.ack_timeout_s,
        )

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
            self._peer.close()

    async def _next(self) -> bool:
        """Deliver the oldest message; False when there is nothing to deliver now."""
        found = await asyncio.to_thread(self._head)
        if found is None or found.next_at > time.time():
            return False
        try:
            reply = await self._peer.exchange(encoded(found.content))
        except PeerUnavailableError as error:
            await asyncio.to_thread(self._failed, found, error.reason)
            return False
        if reply.control_id != found.control_id:
            self._peer.close()  # the reply of an earlier message: later ones would be taken for each other
            await asyncio.to_thread(self._failed, found, "a reply to another message")
            return False
        if reply.code in ("AA", "CA"):
            await asyncio.to_thread(self._delivered, found)
            return True
        if reply.code in ("AE", "CE"):
            await asyncio.to_thread(self._dead, found, reply.code)
            return True
        await asyncio.to_thread(self._failed, found, reply.code[:10])
        return False

    def _head(self) -> Undelivered | None:
        with self._store.snapshot() as change:
            return change.next_undelivered(self._name)

    def _delivered(self, found: Undelivered) -> None:
        with self._store.transaction() as change:
            change.delivered(found.position)

    def _dead(self, found: Undelivered, reason: str) -> None:
        LOG.error("a message is dead", extra={"fields": {"message_id": found.message_id, "reason": reason}})
        with self._store.transaction() as change:
            change.dead(found.position, reason=reason)

    def _failed(self, found: Undelivered, reason: str) -> None:
        receiver = self._receiver
        if time.time() - found.created_at > receiver.give_up_after_hours * 3600:
            self._dead(found, reason)
            return
        wait_s = min(receiver.max_retry_s, receiver.first_retry_s * 2.0 ** min(found.attempts, 30))
        LOG.warning(
            "a message was not delivered", extra={"fields": {"message_id": found.message_id, "reason": reason}}
        )
        with self._store.transaction() as change:
            change.not_delivered(found.position, next_at=time.time() + wait_s, reason=reason)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return
