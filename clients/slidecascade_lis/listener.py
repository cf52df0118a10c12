"""The MLLP server: connections, limits, TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from slidecascade.errors import ListenError
from slidecascade_lis.config import Listen
from slidecascade_lis.framing import Fault, Frame, FrameReader, framed

LOG = logging.getLogger("slidecascade.lis")
_DRAIN_S: Final = 5.0
_KEEPALIVE_S: Final = 60

Answer = Callable[[Frame], Awaitable[bytes | None]]


class Listener:
    """Answers the frames of each connection one after the other by `answer`."""

    def __init__(self, listen: Listen, answer: Answer) -> None:
        self._listen = listen
        self._answer = answer
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; the port.

        Raises:
            ListenError: the address cannot be used.
        """
        listen = self._listen
        tls = listen.tls.context() if listen.tls else None
        try:
            self._server = await asyncio.start_server(self._serve, listen.host, listen.port, ssl=tls, backlog=512)
        except OSError as error:
            raise ListenError(
                f"{listen.host}:{listen.port} cannot be listened at ({error.strerror}): choose another "
                "`listen.port`."
            ) from error
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Close all connections. A message that is stored but not answered gets its reply when sent again."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=grace_s)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._listen.max_connections:
            LOG.warning("connection refused: too many connections")
            writer.close()
            return
        task = asyncio.ensure_future(self._exchange(reader, writer))
        self._open.add(task)
        try:
            await task
        except (OSError, TimeoutError, asyncio.CancelledError):  # the peer left, or the bridge stops
            LOG.debug("connection ended")
        finally:
            self._open.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _keep_alive(writer)
        listen = self._listen
        frames = FrameReader(
            reader,
            max_bytes=listen.max_message_bytes,
            idle_s=listen.idle_timeout_s,
            frame_s=listen.frame_timeout_s,
        )
        skipped = 0
        while (frame := await frames.next()) is not None:
            if frames.skipped > skipped:
                LOG.warning("bytes outside of frames", extra={"fields": {"bytes": frames.skipped - skipped}})
                skipped = frames.skipped
            reply = await self._answer(frame)
            if reply is not None:
                writer.write(framed(reply))
                async with asyncio.timeout(listen.frame_timeout_s):
                    await writer.drain()
            if frame.fault in (Fault.TOO_LARGE, Fault.TOO_SLOW):
                await frames.drain(_DRAIN_S)
                return


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Find half-open connections within minutes."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S // 4)
