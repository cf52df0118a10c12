"""One request and its answer, as the log and the metrics see them."""

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

from slidecascade.errors import SlideCascadeError
from slidecascade.web.middleware.admission import Place

REQUEST_ID_HEADER = "X-Request-Id"
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass
class Exchange:
    """Filled in while the request is answered.

    `status` is None until the answer begins; `error` is the error of ours that an answer of BentoML's hides;
    `place` is the one it was admitted to, or one that nobody counts.
    """

    request_id: str = field(default_factory=_new_id)
    started: float = field(default_factory=time.monotonic)
    status: int | None = None
    sent_bytes: int = 0
    complete: bool = False
    error: SlideCascadeError | None = None
    place: Place = field(default_factory=Place)

    @classmethod
    def begin(cls, scope: Scope) -> Exchange:
        """A new exchange, kept in the request's state; the caller's request id is used when it is valid."""
        asked = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        exchange = cls(asked) if _VALID_REQUEST_ID.fullmatch(asked) else cls()
        scope.setdefault("state", {})["exchange"] = exchange
        return exchange

    @classmethod
    def of(cls, connection: HTTPConnection) -> Exchange:
        """The exchange of a request; a new one for a request that did not come through the boundary."""
        exchange = getattr(connection.state, "exchange", None)
        return exchange if isinstance(exchange, cls) else cls.begin(connection.scope)

    @property
    def seconds(self) -> float:
        """Since the request began."""
        return time.monotonic() - self.started

    def recording(self, send: Send) -> Send:
        """`send`, with the request id put on the answer, and the answer noted here."""

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                headers[REQUEST_ID_HEADER] = self.request_id
                # Answers hold findings about patients: nothing between here and the caller may keep them.
                headers.setdefault("Cache-Control", "no-store")
                message = {**message, "headers": headers.raw}
            elif message["type"] == "http.response.body":
                self.sent_bytes += len(message.get("body", b""))
                self.complete = not message.get("more_body", False)
            await send(message)

        return recorded

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keeps the error of ours that leaves this block."""
        try:
            yield
        except SlideCascadeError as error:
            self.error = error
            raise
