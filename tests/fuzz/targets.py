"""What is fuzzed: functions that read a stranger's bytes, and the errors they may end in.

They import what they call themselves: a fuzzer instruments it first. Whatever one raises but an error of its
contract is a finding, and so is a crash of a library below it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from slidecascade.errors import SlideCascadeError

_MAX_BODY: Final = 2**16
_MAX_PX: Final = 10**6
_DECODED_BYTES: Final = 2**25
"""Images that need more are not decoded."""


@dataclass(frozen=True)
class Target:
    """`run` takes any bytes; the branches of `modules` guide the fuzzer; `dictionary` has words it tries."""

    run: Callable[[bytes], None]
    modules: tuple[str, ...]
    dictionary: tuple[str, ...] = ()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


async def _body(data: bytes, content_type: str, *, native: bool) -> None:
    """A body in three chunks, read as that of a region request."""
    from starlette.requests import Request

    from slidecascade.web.intake import read_native_order, read_order

    third = len(data) // 3
    chunks = [data[:third], data[third : 2 * third], data[2 * third :]]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    scope = {"type": "http", "headers": [(b"content-type", content_type.encode())]}
    read = read_native_order if native else read_order
    await read(Request(scope, receive), max_bytes=_MAX_BODY, max_s=60)


def multipart(data: bytes) -> None:
    """The first line is the boundary."""
    boundary, _, body = data.partition(b"\n")
    content_type = "multipart/form-data; boundary=" + boundary.decode("latin-1")
    _loop().run_until_complete(_body(body, content_type, native=False))


def documents(data: bytes) -> None:
    """JSON of regions, jobs and BentoML's clients, and urlencoded forms; the first byte chooses."""
    from slidecascade.web.intake import parse
    from slidecascade.wire import JobRequest, RegionRequest

    kind, document = data[:1], data[1:]
    if kind == b"j":
        parse(JobRequest, document)
    elif kind == b"n":
        _loop().run_until_complete(_body(document, "application/json", native=True))
    elif kind == b"u":
        _loop().run_until_complete(_body(document, "application/x-www-form-urlencoded", native=True))
    else:
        parse(RegionRequest, document)


def heads(data: bytes) -> None:
    """Lines: the target, then headers; what is read of them before a body."""
    from starlette.requests import Request

    from slidecascade.web.entry import as_usual, require_clear_framing, require_host
    from slidecascade.web.negotiation import choose
    from slidecascade.web.regions import OFFERS

    first, *lines = data.split(b"\n")
    headers = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in lines[:50])]
    path = first.decode("latin-1")
    scope = {"type": "http", "path": path, "raw_path": first, "headers": headers, "http_version": "1.1"}
    usual = as_usual(scope)
    require_clear_framing(usual)
    request = Request(usual)
    choose(",".join(request.headers.getlist("accept")), OFFERS)
    require_host(usual, {"localhost"})


def tensors(data: bytes) -> None:
    """A call of /v2/.../infer; the first two bytes are the length of its JSON."""
    from slidecascade.web.tensors import Inference

    length, body = int.from_bytes(data[:2], "big"), data[2:]
    spec = _packages()["nash-cell"].spec
    found = Inference(body, json_bytes=min(length, len(body)), spec=spec, max_images=4)
    list(found.runs())


@functools.cache
def _packages() -> Mapping[str, Any]:
    from slidecascade.models.repository import load_repository
    from slidecascade.settings import bundled_models_dir

    return load_repository(bundled_models_dir())


def images(data: bytes) -> None:
    """The header of an upload, and its pixels where they are few."""
    from slidecascade.slides.upload import open_image

    image = open_image(data, max_px=_MAX_PX)
    if image.peak_bytes <= _DECODED_BYTES and image.stack is None:
        image.decode()


def geojson(data: bytes) -> None:
    """Annotations as QuPath writes them."""
    from slidecascade_evaluation.geojson import parse as parse_geojson
    from slidecascade_evaluation.geojson import stated_origin

    parse_geojson(data, "a.geojson")
    stated_origin(data)


def xml(data: bytes) -> None:
    """Annotations of ASAP and Aperio ImageScope."""
    from slidecascade_training.datasets.xmlfile import parse as parse_xml

    parse_xml(data, "a.xml")


def runs(data: bytes) -> None:
    """Run lengths of a mask; the first two bytes are the sides of its image."""
    from slidecascade.areas.runlengths import decode

    sides = (*data[:2], 1, 1)
    decode(data[2:].decode("latin-1"), width_px=sides[0] + 1, height_px=sides[1] + 1, name="a")


async def _frames(data: bytes) -> None:
    from slidecascade_lis.framing import FrameReader

    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    reader = FrameReader(stream, max_bytes=4096, idle_s=60, frame_s=60)
    while (frame := await reader.next()) is not None:
        if frame.fault is None:
            _message(frame.content)


@functools.cache
def _rules() -> Any:
    from slidecascade_lis.config import Orders

    rules = {"slide": ["OBR-13"], "pipeline": ["OBR-4", "SPM-4"], "region": ["OBX-5"], "label": ["PID-3"]}
    return Orders.model_validate({name: {"take": fields} for name, fields in rules.items()})


def _message(content: bytes) -> None:
    from slidecascade_lis.batches import split_batch
    from slidecascade_lis.charsets import decoded
    from slidecascade_lis.er7 import read_lines, read_message
    from slidecascade_lis.orders import check_header, read_orders

    lines = read_lines(decoded(content))
    if not lines:
        return
    for part in split_batch(lines) if lines[0].startswith(("FHS", "BHS")) else [lines]:
        message = read_message(part)
        check_header(message)
        for segment in message.segments:
            segment.encoded(segment.delimiters)
        read_orders(message, _rules(), pseudonym_key="key")


def mllp(data: bytes) -> None:
    """Frames of a connection, and the orders in them."""
    _loop().run_until_complete(_frames(data))


_HTTP = ("multipart/form-data", "request", "image", "\\r\\n", "--b", "Content-Disposition: form-data; name=")
_FIELDS = ('"pipeline":', '"mpp":', '"region":', '"slide":', '"thresholds":', '"stain":', '"x":', "NaN", "1e999")

TARGETS: Final[Mapping[str, Target]] = {
    "multipart": Target(multipart, ("slidecascade.web", "python_multipart"), _HTTP),
    "documents": Target(documents, ("slidecascade.web", "slidecascade.wire"), _FIELDS),
    "heads": Target(
        heads,
        ("slidecascade.web",),
        ("accept:", "range:bytes=", "host:", "transfer-encoding:chunked", "content-length:", "http://", "*/*;q=0"),
    ),
    "tensors": Target(
        tensors,
        ("slidecascade.web", "slidecascade.models"),
        ('"inputs":', '"datatype":', '"UINT8"', '"shape":', '"data":', '"parameters":', '"binary_data_size":'),
    ),
    "images": Target(
        images,
        ("slidecascade.slides",),
        ("IHDR", "IDAT", "IEND", "PLTE", "tRNS", "eXIf", "\\xff\\xc2", "\\xff\\xda", "II*\\x00", "VP8X", "RIFF"),
    ),
    "geojson": Target(
        geojson,
        ("slidecascade_evaluation",),
        (
            '"FeatureCollection"',
            '"coordinates":',
            '"MultiPolygon"',
            '"classification":',
            '"nucleusGeometry"',
            "1e308",
        ),
    ),
    "xml": Target(
        xml,
        ("slidecascade_training.datasets.xmlfile", "slidecascade_evaluation"),
        ("<!DOCTYPE", "<!ENTITY", "ASAP_Annotations", "Coordinate", "Annotations", "Region", "Vertex"),
    ),
    "runs": Target(runs, ("slidecascade.areas",), ("9223372036854775807", "-1", "1 1")),
    "mllp": Target(
        mllp,
        ("slidecascade_lis",),
        ("\\x0bMSH|^~\\\\&|", "\\x1c\\x0d", "\\x0d", "OBR|", "ORC|", "OML^O21", "BHS|"),
    ),
}

REFUSED: Final = SlideCascadeError
"""What a target may raise; its sentence goes to the client."""
