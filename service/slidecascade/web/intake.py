"""Parses the body of a POST: a region request, with or without an image."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from slidecascade.errors import (
    InvalidRequestError,
    MalformedRequestError,
    UnsupportedMediaTypeError,
)
from slidecascade.web.body import Body
from slidecascade.web.form import MAX_JSON_BYTES, TakeImage, read_form
from slidecascade.wire import JSON, JobOrder, JobRequest, RegionRequest, WireModel, refusal

Model = TypeVar("Model", bound=BaseModel)

FORM: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"


MAX_MEMBERS: Final = 2000
"""Maximum colons, and so members, of a JSON document: reporting 100,000 invalid ones takes a second."""


@dataclass(frozen=True, slots=True)
class Order:
    """A region request; `image` is the encoded upload, None when `request` names a slide."""

    request: RegionRequest
    image: bytes | None


async def read_order(request: Request, *, max_bytes: int, max_s: float) -> Order:
    """The order in the body of `request`; an upload is kept in memory, not on disk.

    For the time limits of a body see `slidecascade.web.body`.

    Raises:
        UnsupportedMediaTypeError: when the body is neither a multipart form nor JSON.
        UploadTooLargeError: when Content-Length states, or the body has, more than `max_bytes`.
        MalformedRequestError: when the body contradicts its content type, or a part is missing or repeated.
        InvalidRequestError: listing the fields that are wrong.
        DeadlineExceededError: when the body stalls or is too slow.
        CancelledError: when the client disconnects.
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
    """As `read_order`, in the formats of BentoML's clients: without an image they send a urlencoded form.

    In JSON the request is the member ``request``.
    """
    media_type = _media_type(request)
    if media_type == JSON:
        return Order(parse(_NativeDocument, await _document(request, max_bytes, max_s)).request, None)
    if media_type == FORM:
        return await _read_form(request, max_bytes, max_s)
    if media_type == URLENCODED:
        fields = _form_fields(await _document(request, max_bytes, max_s))
        return _order({name: values[0].encode() for name, values in fields.items() if name == "request"})
    raise UnsupportedMediaTypeError(f"Send {FORM} with the parts 'image' and 'request', or {JSON}.")


def parse_request(document: bytes) -> RegionRequest:
    """The region request in a JSON document.

    Raises:
        MalformedRequestError: when it is not a JSON object.
        InvalidRequestError: listing the fields that are wrong.
    """
    return parse(RegionRequest, document)


@dataclass(frozen=True, slots=True)
class JobIntake:
    """How a job is read: as which model, whether in the forms of BentoML's clients, and how much may be sent."""

    model: type[JobRequest]
    is_native: bool
    max_bytes: int
    max_s: float


async def read_job(request: Request, intake: JobIntake, take: TakeImage) -> tuple[JobRequest, bool]:
    """The job in the body of `request`, and whether there was an image, which `take` is given in pieces.

    Raises as `read_order`, and what `take` does.
    """
    media_type = _media_type(request)
    if media_type == FORM:
        body = Body(request, max_bytes=intake.max_bytes, max_s=intake.max_s)
        parts = await read_form(body, request.headers["content-type"], take=take)
        if "request" not in parts:
            raise MalformedRequestError("The form has no part 'request': add it, with the request as JSON.")
        return parse(intake.model, parts["request"]), "image" in parts
    if media_type == JSON:
        document = await _document(request, intake.max_bytes, intake.max_s)
        return (parse(_NativeJob, document).request if intake.is_native else parse(intake.model, document)), False
    if media_type == URLENCODED and intake.is_native:
        fields = _form_fields(await _document(request, intake.max_bytes, intake.max_s))
        return parse(intake.model, fields.get("request", [""])[0].encode()), False
    raise UnsupportedMediaTypeError(
        f"Send {FORM} with the parts 'image' and 'request', or {JSON} that names a slide."
    )


async def read_bytes(request: Request, *, max_bytes: int, max_s: float) -> bytes:
    """The whole body, of any type; with the limits and errors of `read_order`."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _encoded()
    return await Body(request, max_bytes=max_bytes, max_s=max_s).read()


async def read_json(request: Request, *, max_s: float, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The body, which must say that it is JSON: a page of another origin can send any text, but not JSON.

    Raises:
        UnsupportedMediaTypeError: when it is something else.
        MalformedRequestError, UploadTooLargeError, DeadlineExceededError, CancelledError: as `read_order`.
    """
    if _media_type(request) != JSON:
        raise UnsupportedMediaTypeError(f"Send the request as {JSON}.")
    return await Body(request, max_bytes=max_bytes, max_s=max_s).read()


class _NativeDocument(WireModel):
    request: RegionRequest


class _NativeJob(WireModel):
    request: JobOrder


def parse(model: type[Model], document: bytes, *, max_members: int = MAX_MEMBERS) -> Model:
    """`document` as JSON of `model`.

    Raises:
        MalformedRequestError: when it is not a JSON object.
        InvalidRequestError: listing the fields that are wrong.
    """
    if document.count(b":") > max_members:
        raise InvalidRequestError(
            f"The request has more than {max_members} fields: remove those that are not documented.",
            (("request", f"has more than {max_members} fields"),),
        )
    try:
        return model.model_validate_json(document.removeprefix(BOM_UTF8))  # editors of Windows write one
    except ValidationError as error:
        if not error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]:
            raise MalformedRequestError(
                "The request is not a valid JSON object in UTF-8: check its quotes, commas, braces and encoding."
            ) from None
        raise refusal(error) from None


def _form_fields(document: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(document.decode("ascii", "replace"), max_num_fields=MAX_MEMBERS)
    except ValueError:
        raise MalformedRequestError(f"The form has more than {MAX_MEMBERS} fields: send only 'request'.") from None


def _encoded() -> UnsupportedMediaTypeError:
    return UnsupportedMediaTypeError("The body has a Content-Encoding, which is not supported: send it without.")


def _media_type(request: Request) -> str:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _encoded()
    return parse_options_header(request.headers.get("content-type", ""))[0].decode("latin-1")


async def _document(request: Request, max_bytes: int, max_s: float) -> bytes:
    return await Body(request, max_bytes=min(max_bytes, MAX_JSON_BYTES), max_s=max_s).read()


async def _read_form(request: Request, max_bytes: int, max_s: float) -> Order:
    body = Body(request, max_bytes=max_bytes, max_s=max_s)
    return _order(await read_form(body, request.headers["content-type"]))


def _order(parts: dict[str, bytes]) -> Order:
    if "request" not in parts:
        raise MalformedRequestError("The form has no part 'request': add it, with the request as JSON.")
    request = parse_request(parts["request"])
    if "image" not in parts and request.slide is None:
        raise MalformedRequestError("The form has no part 'image': add it, or name a slide in 'request'.")
    return Order(request, parts.get("image"))
