"""Answers as gzip for those who ask for it (RFC 9110, sections 8.4 and 12.5.3)."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

from slidecascade.outputs.gzipped import gzipped

MIN_BYTES: Final = 1000
"""What is shorter gains nothing: it travels in one packet either way."""

MAX_BYTES: Final = 2**20
"""What is longer, and complete, is not packed in the event loop, where it would hold up everybody for a while."""

ACCEPT_ENCODING: Final = "Accept-Encoding"
_PACKABLE: Final = ("application/json", "application/geo+json", "application/problem+json", "text/", "image/svg")


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether `accept_encoding`, the header's value, asks for gzip; an absent header asks for nothing."""
    quality: dict[str, float] = {}
    for part in accept_encoding.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality[name] = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality[name] = _number(value)
    return quality.get("gzip", quality.get("x-gzip", quality.get("*", 0.0))) > 0


def encoded(scope: Scope, send: Send) -> Send:
    """`send`; complete answers of text are packed when the request allows it.

    Answers that are made in pieces are packed where they are made, in a thread.
    """
    wanted = accepts_gzip(",".join(Headers(scope=scope).getlist(ACCEPT_ENCODING)))
    held: Message | None = None

    async def sent(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start" and _is_packable(message):
            headers = MutableHeaders(raw=list(message["headers"]))
            if ACCEPT_ENCODING not in headers.get("vary", ""):
                headers.add_vary_header(ACCEPT_ENCODING)
            message = {**message, "headers": headers.raw}
            if wanted:
                held = message  # until its content is here: it says how long that is
                return
        elif held is not None and message["type"] == "http.response.body":
            start, held = held, None
            start, message = _packed(start, message)
            await send(start)
        await send(message)

    return sent


def _is_packable(start: Message) -> bool:
    headers = Headers(raw=list(start.get("headers", ())))
    # A part of a file stays as it is: its range counts bytes of the file.
    if "content-encoding" in headers or "content-range" in headers:
        return False
    return headers.get("content-type", "").startswith(_PACKABLE)


def _packed(start: Message, content: Message) -> tuple[Message, Message]:
    """Both messages, packed when `content` is all there is and worth it."""
    body: bytes = content.get("body", b"")
    if content.get("more_body", False) or not MIN_BYTES <= len(body) <= MAX_BYTES:
        return start, content
    packed = b"".join(gzipped([body]))
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["Content-Encoding"], headers["Content-Length"] = "gzip", str(len(packed))
    if "etag" in headers:
        headers["ETag"] = f"W/{headers['etag'].removeprefix('W/')}"  # other bytes, the same meaning
    return {**start, "headers": headers.raw}, {**content, "body": packed}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
