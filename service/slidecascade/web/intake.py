"""Reading what a caller sends: a region request, with or without an image, from the body of a POST."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    MalformedRequestError,
    UnsupportedMediaTypeError,
    UploadTooLargeError,
)
from slidecascade.web.preamble import Preamble
from slidecascade.wire import JSON, RegionRequest, WireModel, refusal

Model = TypeVar("Model", bound=BaseModel)

FORM: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"
MAX_JSON_BYTES: Final = 2**20
"""Largest JSON document: a request is a handful of fields."""

STALL_S: Final = 30.0
"""A caller that sends nothing for this long is let go, so that stalled uploads cannot fill the server."""

SLOW_BYTES_PER_S: Final = 64_000
"""Beyond `STALL_S` a body gets a second for this many bytes it has brought: a trickle is let go as well."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to analyse; `image` is an encoded upload, None when `request` names a slide."""

    request: RegionRequest
    image: bytes | None


async def read_order(request: Request, *, max_bytes: int, max_s: float) -> Order:
    """The order in the body of `request`; an upload is kept in memory and never touches the disk.

    A body may take `STALL_S`, and more by `SLOW_BYTES_PER_S` while it arrives, but never more than `max_s`.

    Raises:
        UnsupportedMediaTypeError: when the body is neither a multipart form nor JSON.
        UploadTooLargeError: told by Content-Length before reading, else as soon as `max_bytes` are passed.
        MalformedRequestError: when the body is not what its content type says, or a part is missing or repeated.
        InvalidRequestError: listing the fields that are wrong.
        DeadlineExceededError: when the body stalls or is too slow.
        CancelledError: when the caller leaves.
    """
    media_type = _media_type(request)
    if media_type == JSON:
        return Order(parse_request(await _document(request, max_bytes, max_s)), None)
    if media_type == FORM:
        return await _read_form(request, max_bytes, max_s)
    raise UnsupportedMediaTypeError(
        f"Send {FORM} with the parts 'image' and 'request', or {JSON} that names a slide."
    )


async def read_native_order(request: Request, *, max_bytes: int, max_s: float) -> Order:
    """As `read_order`, in the forms BentoML's clients use: without an image they send a urlencoded form.

    In JSON the request is the member ``request``.
    """
    media_type = _media_type(request)
    if media_type == JSON:
        return Order(_parse(_NativeDocument, await _document(request, max_bytes, max_s)).request, None)
    if media_type == FORM:
        return await _read_form(request, max_bytes, max_s)
    if media_type == URLENCODED:
        fields = parse_qs((await _document(request, max_bytes, max_s)).decode("ascii", "replace"))
        return _order({name: values[0].encode() for name, values in fields.items() if name == "request"})
    raise UnsupportedMediaTypeError(f"Send {FORM} with the parts 'image' and 'request', or {JSON}.")


def parse_request(document: bytes) -> RegionRequest:
    """The region request a JSON document holds.

    Raises:
        MalformedRequestError: when it is not a JSON object.
        InvalidRequestError: listing the fields that are wrong.
    """
    return _parse(RegionRequest, document)


async def read_bytes(request: Request, *, max_bytes: int, max_s: float) -> bytes:
    """The whole body, whatever its type; as patient as `read_order`, and raises what it raises of the body."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _encoded()
    return b"".join([chunk async for chunk in _chunks(request, max_bytes, max_s)])


class _NativeDocument(WireModel):
    request: RegionRequest


def _parse(model: type[Model], document: bytes) -> Model:
    try:
        return model.model_validate_json(document.removeprefix(BOM_UTF8))  # editors of Windows write one
    except ValidationError as error:
        if not error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]:
            raise MalformedRequestError(
                "The request is not a JSON object in UTF-8: check its quotes, commas, braces and encoding."
            ) from None
        raise refusal(error) from None


def _encoded() -> UnsupportedMediaTypeError:
    return UnsupportedMediaTypeError("Send the body without Content-Encoding.")


def _media_type(request: Request) -> str:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _encoded()
    return parse_options_header(request.headers.get("content-type", ""))[0].decode("latin-1")


async def _document(request: Request, max_bytes: int, max_s: float) -> bytes:
    return b"".join([chunk async for chunk in _chunks(request, min(max_bytes, MAX_JSON_BYTES), max_s)])


async def _read_form(request: Request, max_bytes: int, max_s: float) -> Order:
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary")
    if not boundary:
        raise MalformedRequestError("The Content-Type of a multipart form needs a boundary.")
    parts = _Parts(boundary)
    async for chunk in _chunks(request, max_bytes, max_s):
        parts.feed(chunk)
    return _order(parts.finish())


def _order(parts: dict[str, bytes]) -> Order:
    if "request" not in parts:
        raise MalformedRequestError("The form has no part 'request': add it, with the request as JSON.")
    request = parse_request(parts["request"])
    if "image" not in parts and request.slide is None:
        raise MalformedRequestError("The form has no part 'image': add it, or name a slide in 'request'.")
    return Order(request, parts.get("image"))


async def _chunks(request: Request, limit: int, max_s: float) -> AsyncIterator[bytes]:
    """The body as it arrives, at most `limit` bytes of it, for as long as it is fast enough."""
    too_large = UploadTooLargeError(f"The body is larger than {limit} bytes, the most that is read here.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    stream = request.stream()
    clock = asyncio.get_running_loop().time
    started = clock()
    total = 0
    while True:
        slowest_s = min(STALL_S + total / SLOW_BYTES_PER_S, max_s)
        try:
            async with asyncio.timeout_at(min(clock() + STALL_S, started + slowest_s)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceededError(
                f"Of the body only {total} bytes arrived in {clock() - started:.1f} s: send it again at once."
            ) from None
        except ClientDisconnect:
            raise CancelledError("The caller left while sending.") from None
        total += len(chunk)
        if total > limit:
            raise too_large
        yield chunk


class _Parts:
    """The parts of a multipart form by name, put together while they arrive; file names are not looked at."""

    _NAMES = frozenset({"image", "request"})

    def __init__(self, boundary: bytes) -> None:
        self._preamble = Preamble(boundary)
        self._pieces: dict[str, list[bytes]] = {}
        self._name: str | None = None
        self._header = (b"", b"")
        self._request_bytes = 0
        self._ended = False
        callbacks: dict[str, Callable[..., Any]] = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # its TypedDict
        except FormParserError as error:
            raise MalformedRequestError("The boundary of the multipart form cannot be used.") from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(self._preamble.without(chunk))
        except FormParserError as error:
            raise MalformedRequestError("The body is not a multipart form with that boundary.") from error

    def finish(self) -> dict[str, bytes]:
        if not self._ended:
            raise MalformedRequestError("The multipart form ends before its last boundary.")
        return {name: b"".join(pieces) for name, pieces in self._pieces.items()}

    def _begin_part(self) -> None:
        self._name = None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _end_header(self) -> None:
        (name, value), self._header = self._header, (b"", b"")
        if name.lower() == b"content-disposition":
            self._name = parse_options_header(value)[1].get(b"name", b"").decode("latin-1")

    def _end_headers(self) -> None:
        if self._name not in self._NAMES:
            raise MalformedRequestError("The form has a part that is neither 'image' nor 'request': remove it.")
        if self._name in self._pieces:
            raise MalformedRequestError(f"The form has the part {self._name!r} twice: send it once.")
        self._pieces[self._name] = []

    def _data(self, data: bytes, start: int, end: int) -> None:
        name = str(self._name)
        if name == "request":
            self._request_bytes += end - start
            if self._request_bytes > MAX_JSON_BYTES:
                raise UploadTooLargeError(f"The part 'request' is larger than {MAX_JSON_BYTES} bytes.")
        self._pieces[name].append(data[start:end])

    def _end(self) -> None:
        self._ended = True
