"""The state of one request and its response, for the log and the metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope, Send

from slidecascade.errors import SlideCascadeError, release_frames
from slidecascade.web.middleware.admission import Place

REQUEST_ID_HEADER = "X-Request-Id"
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass
class Exchange:
    """Filled in while the request is processed.

    `status` is None until the response starts; `error` is our error that a response of BentoML hides;
    `place` is its place, possibly an uncounted one; after the `last` exchange the connection is closed; `is_head`
    means that only the headers of the response are sent, so that its content need not be computed; `object` is the
    id of what the request is about, where its path does not say so, for the audit log.
    """

    request_id: str = field(default_factory=_new_id)
    started: float = field(default_factory=time.monotonic)
    status: int | None = None
    sent_bytes: int = 0
    complete: bool = False
    error: SlideCascadeError | None = None
    last: bool = False
    place: Place = field(default_factory=Place)
    is_head: bool = False
    object: str | None = None

    @classmethod
    def begin(cls, scope: Scope) -> Exchange:
        """A new exchange in the request's state; a valid request id of the client is used."""
        asked = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        exchange = cls(asked) if _VALID_REQUEST_ID.fullmatch(asked) else cls()
        exchange.is_head = scope.get("method") == "HEAD"
        scope.setdefault("state", {})["exchange"] = exchange
        return exchange

    @classmethod
    def of(cls, connection: HTTPConnection) -> Exchange:
        """The exchange of a request; a new one for a request that did not pass the boundary."""
        exchange = getattr(connection.state, "exchange", None)
        return exchange if isinstance(exchange, cls) else cls.begin(connection.scope)

    @property
    def seconds(self) -> float:
        """Since the start of the request."""
        return time.monotonic() - self.started

    def mark(self, headers: MutableHeaders) -> None:
        """Add the headers of every response."""
        headers[REQUEST_ID_HEADER] = self.request_id
        # Responses contain findings about patients: no cache may store them.
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("X-Frame-Options", "DENY")
        if self.last:
            headers["Connection"] = "close"

    def recording(self, send: Send) -> Send:
        """`send`, which adds the common headers and records the response here."""

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                self.mark(headers)
                message = {**message, "headers": headers.raw}
            elif message["type"] == "http.response.body":
                self.sent_bytes += len(message.get("body", b""))
                self.complete = not message.get("more_body", False)
            await send(message)

        return recorded

    def end(self) -> None:
        """Drop everything except numbers: the server keeps this object as long as the connection."""
        if self.error is not None:
            release_frames(self.error)
        self.error = None
        self.place = Place()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Record our error that is raised in this context."""
        try:
            yield
        except SlideCascadeError as error:
            self.error = error
            raise
