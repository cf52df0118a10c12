"""The body of a request while it arrives, with limits of bytes and time."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Final

from starlette.requests import Request

from slidecascade.errors import CancelledError, DeadlineExceededError, UploadTooLargeError
from slidecascade.web.middleware.exchange import Exchange

STALL_S: Final = 30.0
"""A client that sends nothing for this time is disconnected, so that stalled uploads cannot exhaust the server."""

SLOW_BYTES_PER_S: Final = 64_000
"""A body that is slower than this for `STALL_S` is rejected, also after a fast start."""


class Body:
    """The chunks of a body of at most `max_bytes`, with a minimum rate.

    A body may be slower than `SLOW_BYTES_PER_S` for at most `STALL_S`, and take at most `max_s` seconds.

    Raises:
        UploadTooLargeError: when Content-Length states more than `max_bytes`, before anything is read.
    """

    def __init__(self, request: Request, *, max_bytes: int, max_s: float) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._clock = asyncio.get_running_loop().time
        self._started_at = self._clock()
        self._slowest_at = self._started_at + STALL_S
        self._place = Exchange.of(request).place
        self._arrived_bytes = 0
        self._more = True
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > max_bytes:
            raise self._too_large()

    async def next(self) -> bytes | None:
        """The next chunk; None after the last.

        Raises:
            OverloadedError: when the arriving bodies exceed their memory limit.
            UploadTooLargeError: as soon as more than `max_bytes` have arrived.
            DeadlineExceededError: when the body stalls or is too slow.
            CancelledError: when the client disconnects.
        """
        if not self._more:
            return None
        try:
            async with asyncio.timeout_at(min(self._slowest_at, self._started_at + self._max_s)):
                message = await self._request.receive()
        except TimeoutError:
            seconds = self._clock() - self._started_at
            raise DeadlineExceededError(
                f"Only {self._arrived_bytes} bytes of the body arrived in {seconds:.1f} s: send it again over a "
                "faster connection."
            ) from None
        if message["type"] == "http.disconnect":
            raise CancelledError("The client disconnected while sending the body.")
        chunk: bytes = message.get("body", b"")
        self._more = message.get("more_body", False)
        self._arrived_bytes += len(chunk)
        if self._arrived_bytes > self._max_bytes:
            raise self._too_large()
        self._place.received(len(chunk))
        now = self._clock()
        self._slowest_at = min(self._slowest_at + len(chunk) / SLOW_BYTES_PER_S, now + STALL_S)
        return chunk

    async def read(self) -> bytes:
        """The whole body in one buffer; raises the errors of `next`."""
        whole = BytesIO()  # grows in place: joining a list of chunks would make a copy
        while (chunk := await self.next()) is not None:
            whole.write(chunk)
        return whole.getvalue()

    def _too_large(self) -> UploadTooLargeError:
        return UploadTooLargeError(
            f"The body is larger than {self._max_bytes} bytes, the maximum: send a smaller one."
        )
