"""A connection to another MLLP server: one message at a time, each with its reply."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

from slidecascade_lis.charsets import decoded
from slidecascade_lis.er7 import Message, read_lines, read_message
from slidecascade_lis.framing import FrameReader, framed
from slidecascade_lis.rejection import RejectedMessageError

_CONNECT_S: Final = 10.0
_MAX_REPLY_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """MSA-1, MSA-2 and the whole reply."""

    code: str
    control_id: str
    message: Message


class PeerUnavailableError(ConnectionError):
    """No reply came; `reason` says why in a word, without data of the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Peer:
    """Connects when needed and keeps the connection."""

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, server_name: str | None, reply_s: float
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._server_name = server_name
        self._reply_s = reply_s
        self._streams: tuple[FrameReader, asyncio.StreamWriter] | None = None

    async def exchange(self, content: bytes) -> Acknowledged:
        """Send a message; its reply.

        Raises:
            PeerUnavailableError: the connection failed, or no readable reply came in time; it is closed then.
        """
        try:
            async with asyncio.timeout(self._reply_s + _CONNECT_S):
                return await self._exchange(content)
        except PeerUnavailableError:
            self.close()
            raise
        except (TimeoutError, RejectedMessageError, OSError) as error:
            self.close()
            raise PeerUnavailableError(type(error).__name__) from error

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, content: bytes) -> Acknowledged:
        frames, writer = self._streams or await self._connect()
        writer.write(framed(content))
        await writer.drain()
        frame = await frames.next()
        if frame is None or frame.fault is not None:
            raise PeerUnavailableError("no reply")
        message = read_message(read_lines(decoded(frame.content)) or [""])
        msa = message.first("MSA")
        if msa is None:
            raise PeerUnavailableError("a reply without MSA")
        return Acknowledged(msa.text(1), msa.text(2), message)

    async def _connect(self) -> tuple[FrameReader, asyncio.StreamWriter]:
        server_name = (self._server_name or self._host) if self._tls else None
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, server_hostname=server_name
            )
        frames = FrameReader(reader, max_bytes=_MAX_REPLY_BYTES, idle_s=self._reply_s, frame_s=self._reply_s)
        self._streams = frames, writer
        return self._streams
