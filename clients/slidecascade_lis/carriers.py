"""How a message of the outbox reaches its receiver: over MLLP, or as a transaction of FHIR."""

from __future__ import annotations

import asyncio
from typing import Protocol

from slidecascade.errors import SettingsError
from slidecascade.fhir.server import FhirClient, FhirDeniedError, FhirRejectedError, FhirUnavailableError
from slidecascade_lis.charsets import encoded
from slidecascade_lis.config import Receiver
from slidecascade_lis.peer import Peer, PeerUnavailableError
from slidecascade_lis.records import Undelivered


class RefusedError(Exception):
    """The receiver rejects a message: the same is rejected again. `reason` has no data of the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotNowError(Exception):
    """The message may be taken later; `retry_after_s` is how long the receiver asks to wait, 0 if it does not."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Carrier(Protocol):
    """A way to one receiver."""

    async def carry(self, found: Undelivered) -> None:
        """Raises RefusedError, NotNowError: the message was not taken, or this is not known."""

    def close(self) -> None: ...


class MllpCarrier:
    """To a LIS; it has taken a message when it answers AA or CA."""

    def __init__(self, receiver: Receiver) -> None:
        tls = receiver.tls.context() if receiver.tls else None
        self._peer = Peer(
            receiver.host,
            receiver.port,
            tls=tls,
            server_name=receiver.tls.server_name if receiver.tls else None,
            reply_s=receiver.ack_timeout_s,
        )

    async def carry(self, found: Undelivered) -> None:
        try:
            reply = await self._peer.exchange(encoded(found.content))
        except PeerUnavailableError as error:
            raise NotNowError(error.reason) from error
        if reply.control_id != found.control_id:
            self._peer.close()  # the reply of an earlier message: later ones would be taken for each other
            raise NotNowError("a reply to another message")
        if reply.code in ("AE", "CE"):
            raise RefusedError(reply.code)
        if reply.code not in ("AA", "CA"):
            raise NotNowError(reply.code[:10])

    def close(self) -> None:
        self._peer.close()


class FhirCarrier:
    """To a FHIR server. A token that it does not accept (401, 403) the operator can renew: it is tried on."""

    def __init__(self, client: FhirClient) -> None:
        self._client = client

    async def carry(self, found: Undelivered) -> None:
        if not found.content.startswith("{"):  # HL7 with a patient in it, of when the receiver was a LIS
            raise RefusedError("not a Bundle")
        try:
            await asyncio.to_thread(self._client.transact, found.content.encode())
        except FhirUnavailableError as error:
            raise NotNowError(error.reason, error.retry_after_s or 0.0) from error
        except FhirDeniedError as error:
            raise NotNowError(error.reason) from error
        except FhirRejectedError as error:
            raise RefusedError(error.reason) from error
        except SettingsError as error:
            raise NotNowError("no token") from error

    def close(self) -> None:
        """The client belongs to the bridge."""
