"""What came back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from slidecascade_client.errors import UnexpectedAnswerError
from slidecascade_client.spool import spool

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response; the reader of `body` (rewound) must close it."""

    status: int
    headers: httpx.Headers
    body: IO[bytes]
    request_id: str
    """The id the service used for this call, else the one that was sent."""

    @classmethod
    def received(cls, response: httpx.Response, body: IO[bytes], *, sent_id: str) -> Reply:
        """The reply with the head of `response` and the content `body`."""
        request_id = response.headers.get("x-request-id", sent_id)
        return cls(response.status_code, response.headers, body, request_id)

    def packed(self) -> PackedReply:
        """This answer with its body in memory; the body, which is read through, must not be read meanwhile."""
        content = None
        if not self.body.closed:
            self.body.seek(0)
            content = self.body.read()
        return PackedReply(self.status, tuple(self.headers.multi_items()), content, self.request_id)

    def media_type(self) -> str:
        content_type: str = self.headers.get("content-type", "")
        return content_type.partition(";")[0].strip().lower()

    def take(self, limit: int = -1) -> bytes:
        """The first `limit` bytes of the body (-1: all); the body is closed."""
        with self.body:
            return self.body.read(limit)

    def take_json(self, model: type[M]) -> M:
        """The body as `model`; the body is closed.

        Raises:
            UnexpectedAnswerError: when it is something else.
        """
        try:
            return model.model_validate_json(self.take())
        except ValidationError as error:
            raise self.unexpected(f"The response is not the requested {model.__name__}") from error

    def unexpected(self, what: str) -> UnexpectedAnswerError:
        """The error for an unexpected response; `what` describes it."""
        return UnexpectedAnswerError(
            f"{what}; check that base_url is a SlideCascade service of version 1.",
            status=self.status,
            request_id=self.request_id,
        )


@dataclass(frozen=True, slots=True)
class PackedReply:
    """An answer that can be pickled; `content` is None when its body was closed."""

    status: int
    headers: tuple[tuple[str, str], ...]
    content: bytes | None
    request_id: str

    def unpacked(self) -> Reply:
        """A copy of the reply with a separate body."""
        with spool() as body:
            body.write(self.content or b"")
        if self.content is None:
            body.close()
        return Reply(self.status, httpx.Headers(list(self.headers)), body, self.request_id)
