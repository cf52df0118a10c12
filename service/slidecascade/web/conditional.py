"""Answers that a client may have (RFC 9110, section 13): ETag, If-None-Match, and HEAD without the work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from slidecascade.web.middleware.exchange import Exchange

IMMUTABLE: Final = "private, max-age=31536000, immutable"
"""For what never changes at its address. Not for shared caches: answers hold findings about patients."""

REVALIDATE: Final = "private, no-cache"
"""For what may be kept, and is asked after before each use."""


def etag_of(*parts: object) -> str:
    """A strong ETag of what `parts` identify."""
    text = "\n".join(map(str, parts))
    return f'"{hashlib.sha256(text.encode(), usedforsecurity=False).hexdigest()[:32]}"'


def known_already(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304 when the client has the answer with these headers, of which one is ETag; None: it has not."""
    asked = ",".join(request.headers.getlist("if-none-match"))
    tags = {tag.strip().removeprefix("W/") for tag in asked.split(",")}
    if not tags & {"*", headers["ETag"].removeprefix("W/")}:
        return None
    kept = {name: value for name, value in headers.items() if name in ("ETag", "Cache-Control", "Vary")}
    return Response(status_code=304, headers=kept)


def headless(request: Request, headers: Mapping[str, str], media_type: str) -> Response | None:
    """The head of an answer to HEAD, so that its content need not be made; None: the request is another one."""
    if not Exchange.of(request).is_head:
        return None
    answer = Response(headers=headers, media_type=media_type)
    del answer.headers["content-length"]  # it is not known
    return answer


def file_answer(
    request: Request, path: Path, *, media_type: str, headers: Mapping[str, str], filename: str | None = None
) -> Response:
    """A file, or as much of it as Range asks for; 304 where the client has it. `headers` need no ETag."""
    state = path.stat()
    headers = {"ETag": etag_of(path.name, state.st_mtime_ns, state.st_size, state.st_ino), **headers}
    if (known := known_already(request, headers)) is not None:
        return known
    if Exchange.of(request).is_head:
        size = {"Content-Length": str(state.st_size), "Accept-Ranges": "bytes"}
        return Response(headers={**headers, **size}, media_type=media_type)
    return FileResponse(path, media_type=media_type, headers=dict(headers), filename=filename, stat_result=state)
