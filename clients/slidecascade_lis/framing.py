"""MLLP frames on a stream: VT, content, FS, CR (HL7 Transport Specification, MLLP release 1)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Final

VT: Final = b"\x0b"
FS: Final = b"\x1c"
CR: Final = b"\x0d"
_CHUNK_BYTES: Final = 65_536
_HEADER_BYTES: Final = 4096


class Fault(Enum):
    """What is wrong with a frame."""

    TRUNCATED = "the message was not finished before the next one began"
    TOO_LARGE = "the message exceeds the size limit"
    TOO_SLOW = "the message did not arrive within the time limit"


@dataclass(frozen=True, slots=True)
class Frame:
    """The content of a frame; with a `fault`, only its beginning."""

    content: bytes
    fault: Fault | None = None


def framed(content: bytes) -> bytes:
    return VT + content + FS + CR


class FrameReader:
    """Reads frames from `stream`.

    Attributes:
        skipped: bytes outside of frames, line ends aside, since the start.
    """

    def __init__(self, stream: asyncio.StreamReader, *, max_bytes: int, idle_s: float, frame_s: float) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._frame_s = frame_s
        self._buffer = bytearray()
        self.skipped = 0

    async def next(self) -> Frame | None:
        """The next frame; None at the end of the stream, after `idle_s` without one, and after more bytes outside
        of frames than one may have. A frame that the end of the stream truncates is dropped: its sender got no
        acknowledgement and sends it again."""
        if not await self._begin():
            return None
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._frame_s
        searched = 0
        while True:
            end, again = self._buffer.find(FS, searched), self._buffer.find(VT, searched)
            if again >= 0 and (end < 0 or again < end):
                return Frame(self._taken(again, after=0), Fault.TRUNCATED)
            if end > self._max_bytes or (end < 0 and len(self._buffer) > self._max_bytes):
                return Frame(bytes(self._buffer[:_HEADER_BYTES]), Fault.TOO_LARGE)
            if end >= 0:
                return Frame(self._taken(end, after=1))
            searched = len(self._buffer)
            try:
                if not await self._more(max(ends_at - loop.time(), 0)):
                    return None
            except TimeoutError:
                return Frame(bytes(self._buffer[:_HEADER_BYTES]), Fault.TOO_SLOW)

    async def drain(self, seconds: float) -> None:
        """Discard what arrives, so that the peer can read an answer before the connection is closed."""
        try:
            async with asyncio.timeout(seconds):
                while await self._stream.read(_CHUNK_BYTES):
                    self._buffer.clear()
        except TimeoutError:
            return

    async def _begin(self) -> bool:
        """Skip to the byte after the next VT."""
        outside = 0
        while (start := self._buffer.find(VT)) < 0:
            outside += self._skip(len(self._buffer))
            if outside > self._max_bytes:
                return False
            try:
                if not await self._more(self._idle_s):
                    return False
            except TimeoutError:
                return False
        self._skip(start)
        del self._buffer[:1]
        return True

    def _skip(self, count: int) -> int:
        strange = len(bytes(self._buffer[:count]).replace(CR, b"").replace(b"\n", b""))
        self.skipped += strange
        del self._buffer[:count]
        return strange

    def _taken(self, end: int, *, after: int) -> bytes:
        content = bytes(self._buffer[:end])
        del self._buffer[: end + after]
        return content

    async def _more(self, seconds: float) -> bool:
        async with asyncio.timeout(seconds):
            chunk = await self._stream.read(_CHUNK_BYTES)
        self._buffer += chunk
        return bool(chunk)
