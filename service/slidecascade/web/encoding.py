"""Compression of responses with gzip, by Accept-Encoding (RFC 9110, sections 8.4 and 12.5.3)."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

from slidecascade.outputs.gzipped import gzipped

MIN_BYTES: Final = 1000
"""Minimum size: shorter responses fit into one packet anyway."""

MAX_BYTES: Final = 2**20
"""Maximum size of a complete response that is compressed in the event loop; longer ones would block it."""

ACCEPT_ENCODING: Final = "Accept-Encoding"
_PACKABLE: Final = ("application/json", "application/geo+json", "application/problem+json", "text/", "image/svg")


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether `accept_encoding`, the header's value, accepts gzip; a missing header does not."""
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
    """`send`, which compresses complete text responses if the request accepts it.

    Chunked responses are compressed by the thread that produces them.
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
                held = message  # until the content is known, for Content-Length
                return
        elif held is not None and message["type"] == "http.response.body":
            start, held = held, None
            start, message = _packed(start, message)
            await send(start)
        await send(message)

    return sent


def _is_packable(start: Message) -> bool:
    headers = Headers(raw=list(start.get("headers", ())))
    # A part of a file is not compressed: its range refers to bytes of the file.
    if "content-encoding" in headers or "content-range" in headers:
        return False
    return headers.get("content-type", "").startswith(_PACKABLE)


def _packed(start: Message, content: Message) -> tuple[Message, Message]:
    """Both messages, compressed if `content` is complete and long enough."""
    body: bytes = content.get("body", b"")
    if content.get("more_body", False) or not MIN_BYTES <= len(body) <= MAX_BYTES:
        return start, content
    packed = b"".join(gzipped([body]))
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["Content-Encoding"], headers["Content-Length"] = "gzip", str(len(packed))
    if "etag" in headers:
        headers["ETag"] = f"W/{headers['etag'].removeprefix('W/')}"  # equivalent, not byte-identical
    return {**start, "headers": headers.raw}, {**content, "body": packed}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
