"""The TLS handshake of a client's connection, which counts as one that waits for its client from the start.

asyncio's own TLS servers make a connection known after its handshake: until then nothing would limit how many
there are, and how long they take.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from slidecascade import logs
from slidecascade.hosting.connection import Timeouts
from slidecascade.hosting.openconnections import OpenConnections

Accept: TypeAlias = Callable[..., asyncio.Protocol]
"""Makes the protocol of a connection from what uvicorn gives it."""


def over_tls(
    accept: Accept,
    context: ssl.SSLContext,
    *,
    all_open: OpenConnections,
    timeouts: Timeouts,
    timeout_log: logs.Throttle,
) -> Accept:
    """As `accept`, after a handshake by `context`; see `Handshake`."""

    def accept_plainly(*given: Any, **named: Any) -> asyncio.Protocol:
        make_connection = partial(accept, *given, **named)
        return Handshake(make_connection, context, all_open=all_open, timeouts=timeouts, timeout_log=timeout_log)

    return accept_plainly


class Handshake(asyncio.Protocol):
    """A plain connection on its way to TLS, on which `make_connection` is made then.

    Args:
        timeouts: `head_s` is for the handshake, and then anew for the head of a request.
    """

    def __init__(
        self,
        make_connection: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        *,
        all_open: OpenConnections,
        timeouts: Timeouts,
        timeout_log: logs.Throttle,
    ) -> None:
        self._make_connection = make_connection
        self._context = context
        self._all_open = all_open
        self._timeouts = timeouts
        self._timeout_log = timeout_log
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # of a stream
        self._transport = transport
        transport.pause_reading()  # what comes is for TLS
        # One beyond the limit, too, makes room for the next; what is answered there is the connection's to say.
        self._all_open.add(self)
        self._all_open.mark_waiting(self)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(transport))

    def evict(self) -> None:
        """See `EvictableConnection`."""
        if self._task is not None and self._transport is not None:
            self._task.cancel()
            self._transport.abort()

    def take_turn(self) -> None:
        """See `EvictableConnection`: nothing is parsed yet."""

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        early = _Early()
        try:
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                early,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeouts.head_s,
                ssl_shutdown_timeout=self._timeouts.rest_s,
            )
        except ConnectionAbortedError:
            self._timeout_log.note()
            return
        except OSError:  # also what is no TLS, or without the certificate that is needed
            return
        finally:
            self._all_open.remove(self)
        if secure is None or transport.is_closing():
            if secure is not None:
                secure.abort()
            return
        connection = self._make_connection()
        secure.set_protocol(connection)
        connection.connection_made(secure)
        early.pass_on(connection)


class _Early(asyncio.Protocol):
    """Keeps what arrives between the end of a handshake and the moment when there is a connection for it."""

    def __init__(self) -> None:
        self._received: list[bytes] = []
        self._connection: asyncio.Protocol | None = None

    def data_received(self, data: bytes) -> None:
        self._received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:  # this was scheduled before there was one
            self._connection.connection_lost(exc)

    def pass_on(self, connection: asyncio.Protocol) -> None:
        """Give it all to `connection`."""
        self._connection = connection
        if self._received:
            connection.data_received(b"".join(self._received))
