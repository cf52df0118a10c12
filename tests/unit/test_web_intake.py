"""Bodies of region requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedRequestError,
    SlideCascadeError,
    UnsupportedMediaTypeError,
    UploadTooLargeError,
)
from slidecascade.web import body as body_module
from slidecascade.web.intake import Order, parse_request, read_bytes, read_native_order, read_order
from slidecascade.wire import MAX_ERRORS, RegionRequest

NASH = b'{"pipeline": "nash", "mpp": 0.5}'


def part(name: str, content: bytes, *, boundary: str = "b", more: str = "") -> bytes:
    """One part of a form."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="patient 7.png"\r\n{more}\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes, boundary: str = "b") -> bytes:
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


async def read(
    chunks: Sequence[bytes],
    content_type: str = "multipart/form-data; boundary=b",
    *,
    max_bytes: int = 10_000,
    headers: Sequence[tuple[str, str]] = (),
    ending: str = "http.request",
) -> Order:
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": ending, "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0) if messages else await asyncio.Future()

    raw = [(key.lower().encode(), value.encode()) for key, value in [("content-type", content_type), *headers]]
    return await read_order(Request({"type": "http", "headers": raw}, receive), max_bytes=max_bytes, max_s=60)


async def test_a_form_is_read_whatever_its_chunks() -> None:
    """Image and request come out as they went in, in one piece or byte by byte, in either order."""
    image = bytes(range(256)) * 3 + b"\r\n--bb\r\n"
    for body in (
        form(part("image", image), part("request", NASH)),
        form(part("request", NASH), part("image", image)),
    ):
        for size in (1, 7, len(body)):
            order = await read([body[start : start + size] for start in range(0, len(body), size)])

            assert (order.image, order.request.pipeline, order.request.mpp) == (image, "nash", 0.5)


async def test_a_form_may_name_a_slide() -> None:
    """A form without an image is fine when the request names a slide."""
    order = await read([form(part("request", b'{"pipeline": "nash", "slide": "a.svs"}'))])

    assert (order.request.slide, order.image) == ("a.svs", None)


async def test_json_is_read() -> None:
    """A JSON body names a slide."""
    order = await read([b'{"pipeline": "nash",', b'"slide": "a.svs"}'], "application/json; charset=utf-8")

    assert order == Order(RegionRequest(pipeline="nash", slide="a.svs"), None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (form(part("image", b"x")), "no part 'request'"),
        (form(part("request", NASH)), "no part 'image'"),
        (form(part("image", b"x"), part("image", b"y"), part("request", NASH)), "'image' twice"),
        (form(part("image", b"x"), part("request", NASH), part("request", NASH)), "'request' twice"),
        (form(part("image", b"x"), part("request", NASH), part("patient", b"y")), "a part other than"),
        (form(part("image", b"x"), part("request", b"{")), "JSON"),
        (form(part("image", b"x"), part("request", b"")), "JSON"),
        (form(part("image", b"x"), part("request", b"[]")), "JSON"),
        (form(part("image", b"x"), part("request", b"\xff\xfe")), "JSON"),
        (form(part("image", b"x"), part("request", b"[" * 5000)), "JSON"),
        (part("image", b"x"), "ends before"),
        (form(part("image", b"x"), boundary="other"), "boundary"),
        (form(part("image", b"x", more="X: " + "y" * 9000 + "\r\n")), "boundary"),
        (b"", "ends before"),
        (b"\0" * 50, "boundary"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "a part other than"),
    ],
)
async def test_a_broken_form_is_malformed(body: bytes, says: str) -> None:
    """What is wrong with the form is said, and no file name with it."""
    with pytest.raises(MalformedRequestError, match=says) as caught:
        await read([body])
    assert "patient" not in caught.value.detail


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 500])
async def test_a_boundary_is_needed(content_type: str) -> None:
    """A form without a usable boundary cannot be read."""
    with pytest.raises(MalformedRequestError, match="boundary"):
        await read([form(part("request", NASH))], content_type)


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/png", "application/x-www-form-urlencoded", ";"])
async def test_other_media_types_get_the_supported_ones(content_type: str) -> None:
    """A body of another type is not looked at."""
    with pytest.raises(UnsupportedMediaTypeError, match="multipart/form-data"):
        await read([b"x"], content_type)


async def test_an_encoded_body_is_not_read() -> None:
    """A compressed body could hold anything of any size."""
    with pytest.raises(UnsupportedMediaTypeError, match="Content-Encoding"):
        await read([b"{}"], "application/json", headers=[("Content-Encoding", "gzip")])


async def test_the_limit_holds_while_reading() -> None:
    """A body of unknown length is refused as soon as it passes the limit, not when it is complete."""
    endless = [part("image", b"x" * 500), *[b"x" * 500] * 1000]

    with pytest.raises(UploadTooLargeError, match="2000 bytes"):
        await read(endless, max_bytes=2000)


async def test_a_declared_length_is_believed_at_once() -> None:
    """A body that says it is too large is refused before it is read."""
    with pytest.raises(UploadTooLargeError, match="2000 bytes"):
        await read([], max_bytes=2000, headers=[("Content-Length", "2001")])


async def test_documents_have_a_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON document may not be as large as an image."""
    for module in ("form", "intake"):
        monkeypatch.setattr(f"slidecascade.web.{module}.MAX_JSON_BYTES", 100)
    with pytest.raises(UploadTooLargeError):
        await read([form(part("image", b"x"), part("request", b" " * 101))])
    with pytest.raises(UploadTooLargeError):
        await read([b" " * 101], "application/json")


async def test_a_stalled_upload_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that stops sending does not keep its place."""
    monkeypatch.setattr(body_module, "STALL_S", 0.01)
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    with pytest.raises(DeadlineExceededError, match="arrived"):
        await read_order(request, max_bytes=100, max_s=60)


def dripping(chunk: bytes, *, every_s: float, chunks: int = 1000) -> Request:
    """A request whose JSON body arrives in equal pieces with pauses between them."""
    left = chunks

    async def receive() -> Message:
        nonlocal left
        left -= 1
        await asyncio.sleep(every_s)
        return {"type": "http.request", "body": chunk, "more_body": left > 0}

    return Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)


async def test_a_trickle_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that never quite stops sending does not keep its place either."""
    monkeypatch.setattr(body_module, "STALL_S", 0.1)
    with pytest.raises(DeadlineExceededError, match="arrived"):
        await read_order(dripping(b" ", every_s=0.02), max_bytes=10_000, max_s=60)


async def test_a_trickle_after_a_burst_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent fast does not pay for what is slow, or large bodies could be kept here for minutes."""
    monkeypatch.setattr(body_module, "STALL_S", 0.1)
    burst: list[Message] = [{"type": "http.request", "body": b" " * 1_000_000, "more_body": True}]
    slow = dripping(b" ", every_s=0.02)

    async def receive() -> Message:
        return burst.pop() if burst else await slow.receive()

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(DeadlineExceededError, match="arrived"):
        await read_bytes(request, max_bytes=2_000_000, max_s=60)


async def test_a_steady_body_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives fast enough is read to its end, however long that takes: here it is no JSON in the end."""
    monkeypatch.setattr(body_module, "STALL_S", 0.2)
    monkeypatch.setattr(body_module, "SLOW_BYTES_PER_S", 1000)
    with pytest.raises(MalformedRequestError):
        await read_order(dripping(b" " * 100, every_s=0.02, chunks=20), max_bytes=10_000, max_s=60)


async def test_no_body_outlasts_the_longest_deadline() -> None:
    """A body that would be too late to be worked on is not read on."""
    with pytest.raises(DeadlineExceededError, match="arrived"):
        await read_order(dripping(b" " * 100, every_s=0.02), max_bytes=10**6, max_s=0.1)


async def test_a_caller_who_leaves_while_sending_cancels() -> None:
    """A connection that closes in the middle of a body is a cancelled request."""
    with pytest.raises(CancelledError):
        await read([b"--b\r\n"], ending="http.disconnect")


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ('{"pipeline": "nash", "mpp": NaN}', "mpp"),
        ('{"pipeline": "nash", "mpp": Infinity}', "mpp"),
        ('{"pipeline": "nash", "mpp": -Infinity}', "mpp"),
        ('{"pipeline": "nash", "mpp": 1e999}', "mpp"),
        ('{"pipeline": "nash", "mpp": 0}', "mpp"),
        ('{"pipeline": "nash", "mpp": -0.5}', "mpp"),
        ('{"pipeline": "nash", "mpp": "half"}', "mpp"),
        ('{"pipeline": "nash", "deadline_s": NaN}', "deadline_s"),
        ('{"pipeline": "nash", "deadline_s": 0}', "deadline_s"),
        ('{"pipeline": "nash", "thresholds": {"nuclei": NaN}}', "thresholds.nuclei"),
        ('{"pipeline": "nash", "tile_px": 1}', "tile_px"),
        ('{"pipeline": "nash", "tile_px": 256.5}', "tile_px"),
        ('{"pipeline": "nash", "region": {"x": 0, "y": 0, "width": -5, "height": 5}}', "region.width"),
        ('{"pipeline": "nash", "region": {"x": 0, "y": 0, "width": 0, "height": 5}}', "region.width"),
        ('{"pipeline": "nash", "region": {"x": 0.5, "y": 0, "width": 5, "height": 5}}', "region.x"),
        ('{"pipeline": "nash", "region": {"x": 0, "y": 0, "width": 5}}', "region.height"),
        ('{"pipeline": "nash", "pixelsize": 1}', "pixelsize"),
        ('{"pipeline": "nash", "region": {"x": 2147483648, "y": 0, "width": 5, "height": 5}}', "region.x"),
        ('{"pipeline": "nash", "region": {"x": 0, "y": -2147483648, "width": 5, "height": 5}}', "region.y"),
        (
            json.dumps({"pipeline": "nash", "region": {"x": 0, "y": 0, "width": 10**30, "height": 5}}),
            "region.width",
        ),
        (json.dumps({"pipeline": "nash", "thresholds": {f"m{n}": 0.5 for n in range(33)}}), "thresholds"),
        ('{"pipeline": ""}', "pipeline"),
        ("{}", "pipeline"),
    ],
)
def test_a_wrong_field_is_named(document: str, field: str) -> None:
    """Every value that cannot be used is refused with the field it is in."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(document.encode())
    assert [name for name, _ in caught.value.errors] == [field]
    assert repr(field) in caught.value.detail


def test_all_wrong_fields_are_listed() -> None:
    """The error lists all invalid fields."""
    with pytest.raises(InvalidRequestError, match="and 1 more") as caught:
        parse_request(b'{"pipeline": "", "mpp": 0}')
    assert {name for name, _ in caught.value.errors} == {"pipeline", "mpp"}


def test_few_of_many_wrong_fields_are_listed() -> None:
    """A request that is wrong a thousand times gets a short answer; without long names and values."""
    fields = {f"field-{number}" + "x" * 10_000: "secret" for number in range(1000)}
    with pytest.raises(InvalidRequestError, match="and 1000 more") as caught:
        parse_request(json.dumps(fields).encode())
    assert len(caught.value.errors) == MAX_ERRORS
    reported = repr(caught.value.errors) + caught.value.detail
    assert len(reported) < 5000
    assert "secret" not in reported


def test_far_too_many_fields_are_not_looked_at() -> None:
    """To report 100,000 wrong fields would hold up everybody else: such a request is refused for their number."""
    with pytest.raises(InvalidRequestError, match="more than 2000 fields"):
        parse_request(json.dumps({f"a{number}": 1 for number in range(100_000)}).encode())


async def test_far_too_many_fields_of_a_urlencoded_form_are_not_looked_at() -> None:
    """In the forms of BentoML's clients, too."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"a=1&" * 100_000, "more_body": False}

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    with pytest.raises(MalformedRequestError, match="more than 2000 fields"):
        await read_native_order(Request({"type": "http", "headers": headers}, receive), max_bytes=10**6, max_s=60)


@given(st.binary(max_size=400), st.sampled_from(["multipart/form-data; boundary=b", "application/json"]))
def test_any_bytes_end_in_an_error_of_ours(body: bytes, content_type: str) -> None:
    """No body raises anything but an error with a status."""
    for content in (body, form(part("image", body), part("request", body))):
        with suppress(SlideCascadeError):
            asyncio.run(read([content], content_type))


PREAMBLE = b"This is a multi-part message in MIME format.\r\n"


@pytest.mark.parametrize(
    "before",
    [PREAMBLE, b"\r\n\r\n", b"--bb\r\nnot it\r\n", b"text --b text\r\n", PREAMBLE * 1000, b"--\r\n"],
    ids=["sentence", "empty lines", "another delimiter", "inside a line", "46 kB", "two hyphens"],
)
@pytest.mark.parametrize("size", [1, 7, 10**6])
async def test_what_stands_before_the_first_boundary_is_skipped(before: bytes, size: int) -> None:
    """Mail libraries write a sentence there (RFC 2046); the form is read as without it, whatever its chunks."""
    image = b"\x89PNG --b " * 20
    body = before + form(part("image", image), part("request", NASH))
    order = await read([body[at : at + size] for at in range(0, len(body), size)], max_bytes=10**6)

    assert (order.image, order.request.pipeline) == (image, "nash")


@pytest.mark.parametrize("size", [1000, 10**6])
async def test_a_body_without_its_boundary_is_refused_early(size: int) -> None:
    """An upload with another boundary is not read to its end, nor kept."""
    body = bytes(2 * 10**6)
    sent: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(body), size):
            sent.append(body[at : at + size])
            yield sent[-1]

    pieces = chunks()

    async def receive() -> Message:
        chunk = next(pieces, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    with pytest.raises(MalformedRequestError, match="boundary"):
        await read_order(Request({"type": "http", "headers": headers}, receive), max_bytes=10**7, max_s=60)
    assert sum(map(len, sent)) <= 2**16 + size


@pytest.mark.parametrize("document", [NASH, b'{"pipeline": "nash", "slide": "a.svs"}'])
async def test_a_byte_order_mark_is_not_part_of_the_json(document: bytes) -> None:
    """Editors of Windows write one before UTF-8, in a body of JSON and in the part of a form."""
    marked = b"\xef\xbb\xbf" + document

    assert (await read([form(part("image", b"x"), part("request", marked))])).request.pipeline == "nash"
    assert (await read([marked], "application/json")).request.pipeline == "nash"


def test_whole_numbers_may_be_written_with_a_point() -> None:
    """JSON has one kind of numbers: QuPath writes 0.0 and 174250.0."""
    document = b"""{"pipeline": "nash", "tile_px": 512.0, "mpp": 1,
        "region": {"x": -0.0, "y": 174250.0, "width": 1e3, "height": 2048}}"""
    request = parse_request(document)

    assert request.region is not None
    assert request.region.model_dump() == {"x": 0, "y": 174250, "width": 1000, "height": 2048}
    assert all(type(value) is int for value in request.region.model_dump().values())
    assert (type(request.tile_px), request.tile_px) == (int, 512)


@pytest.mark.parametrize("value", ["0.5", "1e300", "-1e10", "NaN", "Infinity", "true", '"0"', "[0]", "null"])
def test_other_values_are_not_pixels(value: str) -> None:
    """Nothing is rounded, and other JSON types are not numbers."""
    document = f'{{"pipeline": "nash", "region": {{"x": {value}, "y": 0, "width": 5, "height": 5}}}}'
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(document.encode())
    assert [field for field, _ in caught.value.errors] == ["region.x"]
