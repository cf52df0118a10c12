"""What users hand to the client besides a path and an ordinary address."""

from __future__ import annotations

import gzip
import io
import mmap
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import PIL.Image
import pytest

from scripted_server import (
    NO_PIPELINES,
    Answer,
    Ask,
    FakeTime,
    Received,
    ScriptedServer,
    ask_sync,
    both_clients,
    problem,
    scripted,
)
from slidecascade.wire import ZIP, RegionRequest
from slidecascade_client import (
    Client,
    InvalidRequestError,
    UnexpectedAnswerError,
    UnknownPipelineError,
    UploadTooLargeError,
)

END = problem("unknown-pipeline", 404)
PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)


def _sent(ask: Ask, image: Any, **fields: Any) -> tuple[RegionRequest, bytes]:
    """The request and the image as they arrive at a server."""
    with scripted(END) as server, pytest.raises(UnknownPipelineError):
        ask(server.url, "analyze_region", image, pipeline="p", time=FakeTime(), **fields)
    return _parts(server.received[0])


def _parts(request: Received) -> tuple[RegionRequest, bytes]:
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.body, policy=policy.HTTP)
    document, image = cast("list[EmailMessage]", list(message.iter_parts()))
    return RegionRequest.model_validate_json(document.get_content()), cast("bytes", image.get_payload(decode=True))


class _Arrayish:
    """Something of another library that NumPy can read: a tensor, an image of a reader."""

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._pixels


ARRAYS: dict[str, Any] = {
    "columns first in memory": np.asfortranarray(PIXELS),
    "mirrored": PIXELS[::-1, ::-1],
    "every second pixel": np.repeat(np.repeat(PIXELS, 2, 0), 2, 1)[::2, ::2],
    "BGR turned round": np.ascontiguousarray(PIXELS[..., ::-1])[..., ::-1],
    "channels first turned round": np.ascontiguousarray(PIXELS.transpose(2, 0, 1)).transpose(1, 2, 0),
    "read-only": np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape),
    "masked, with no pixel masked": np.ma.masked_array(PIXELS),
    "of another library": _Arrayish(PIXELS),
    "of Pillow": PIL.Image.fromarray(PIXELS),
}
VIEWED = {"mirrored": PIXELS[::-1, ::-1]}


@both_clients
@pytest.mark.parametrize("kind", ARRAYS)
def test_pixels_of_any_order_in_memory_arrive_as_they_look(ask: Ask, kind: str) -> None:
    """What is sent is what the array shows, however its bytes lie."""
    _, content = _sent(ask, ARRAYS[kind])
    seen = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(seen, VIEWED.get(kind, PIXELS))


@both_clients
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16"])
def test_an_image_of_pillow_keeps_its_mode(ask: Ask, mode: str) -> None:
    """Whether grey, palette or alpha can be analysed is for the service to judge, as with a file."""
    image = PIL.Image.new("RGB", (8, 6), "pink").convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = PIL.Image.fromarray(np.full((6, 8), 40_000, np.uint16))
    _, content = _sent(ask, image)
    assert PIL.Image.open(io.BytesIO(content)).mode == mode


@both_clients
@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (np.zeros((4, 4), np.uint8), r"np\.stack"),
        (np.zeros((3, 40, 50), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\.\.\., :3"),
        (np.zeros((4, 4, 3), np.float32), "255"),
        (np.zeros((4, 4, 3), np.uint16), ">> 8"),
        (np.zeros((4, 4, 3), bool), "not bool"),
        (np.zeros((4, 4, 3), np.int64), "not int64"),
        (np.ma.masked_less(np.zeros((4, 4, 3), np.uint8), 5), "filled"),
        (PIL.Image.new("CMYK", (4, 4)), "convert"),
        (_Arrayish(np.zeros((4, 4, 3))), "255"),
    ],
    ids=["grey", "channels first", "RGBA", "float", "uint16", "bool", "int64", "masked", "CMYK", "tensor"],
)
def test_pixels_that_cannot_be_sent_are_refused_with_what_to_do(ask: Ask, image: Any, remedy: str) -> None:
    """Nothing is guessed about depth, order or missing pixels."""
    with scripted(END) as server, pytest.raises(ValueError, match=remedy):
        ask(server.url, "analyze_region", image, pipeline="p", time=FakeTime())
    assert server.received == []


@both_clients
@pytest.mark.parametrize("kind", ["map", "view", "member", "body", "fifo"])
def test_bytes_of_unusual_holders_are_sent_whole(ask: Ask, kind: str, tmp_path: Path) -> None:
    """A memory map, a strided view, a member of a zip, the body of a download, a named pipe."""
    content = np.random.default_rng(1).bytes(700_000)
    path = tmp_path / "image"
    path.write_bytes(content)
    with _holder(kind, content, path) as holder:
        assert _sent(ask, holder)[1] == content


@contextmanager
def _holder(kind: str, content: bytes, path: Path) -> Iterator[Any]:
    if kind == "map":
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped
    elif kind == "view":
        yield memoryview(bytes(byte for pair in zip(content, content, strict=True) for byte in pair))[::2]
    elif kind == "member":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("image", content)
        with zipfile.ZipFile(packed) as archive, archive.open("image") as member:
            yield member
    elif kind == "body":
        yield _OnlyRead(io.BytesIO(content))
    else:
        pipe = path.with_name("fifo")
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        yield pipe
        writer.join()


class _OnlyRead:
    """A file that offers nothing but ``read``."""

    def __init__(self, file: io.BytesIO) -> None:
        self.read = file.read


@both_clients
def test_numbers_of_numpy_and_whole_floats_are_numbers(ask: Ask) -> None:
    """A region out of pandas or QuPath holds 512.0, a pixel size out of an array is a float32."""
    request, _ = _sent(
        ask,
        b"image",
        mpp=np.float32(0.5),
        region=np.array([0.0, 16.0, 512.0, 256.0]),
        thresholds={"nuclei": np.float32(0.25)},
        tile_px=np.int64(512),
        allow_partial=np.bool_(True),
    )
    assert request.region is not None
    assert request.region.model_dump() == {"x": 0, "y": 16, "width": 512, "height": 256}
    assert (request.mpp, request.thresholds, request.tile_px) == (0.5, {"nuclei": 0.25}, 512)
    assert request.allow_partial is True


@both_clients
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region", (0, 0, float("inf"), 5)),
        ("region", (0, 0, float("nan"), 5)),
        ("region", "0,0,5,5"),
        ("region", (0, 0, Decimal("5.5"), 5)),
        ("thresholds", [("nuclei", 0.5)]),
        ("thresholds", 0.5),
        ("pipeline", "\ud800"),
        ("slide", "\udce4.svs"),
        ("slide", Path("a.svs")),
        ("deadline_s", float("inf")),
        ("allow_partial", "yes"),
    ],
)
def test_a_field_of_a_strange_type_is_refused_before_anything_is_sent(ask: Ask, field: str, value: Any) -> None:
    """Always the same typed error, whatever Python would raise."""
    arguments: dict[str, Any] = {"pipeline": "p", field: value}
    image = None if field == "slide" else b"image"
    with scripted(END) as server, pytest.raises(InvalidRequestError, match="Nothing was sent"):
        ask(server.url, "analyze_region", image, time=FakeTime(), **arguments)
    assert server.received == []


@both_clients
@pytest.mark.parametrize("name", ["\udce4.svs", 7, None])
def test_a_name_that_is_not_unicode_is_refused(ask: Ask, name: Any) -> None:
    """A file name read from a folder of another encoding holds surrogates."""
    with scripted(END) as server:
        for method in ("slide", "pipeline", "model"):
            with pytest.raises(InvalidRequestError, match="Unicode"):
                ask(server.url, method, name, time=FakeTime())
    assert server.received == []


@both_clients
@pytest.mark.parametrize(("before", "after"), [("", "/"), ("", "///"), (" ", "\n"), ("", "/a//b/")])
def test_an_address_may_have_slashes_and_spaces_around_it(ask: Ask, before: str, after: str) -> None:
    """A line read from a file or a variable is an address."""
    with scripted(NO_PIPELINES) as server:
        ask(f"{before}{server.url}{after}", "pipelines", time=FakeTime())
    assert server.received[0].path == f"{after.strip().rstrip('/')}/v1/pipelines"


@pytest.mark.parametrize(
    "url",
    [
        None,
        b"http://h",
        7,
        "http:///x",
        "http://[::1",
        "http://h:99999",
        "http://h:0",
        "http://h:port",
        "//h",
        "unix:///run/s",
        "http:h",
    ],
)
def test_an_address_of_another_kind_is_refused_by_name(url: Any) -> None:
    """Whatever the HTTP library raises, it is one sentence."""
    with pytest.raises(ValueError, match="base_url must be an address"):
        Client(url)


@pytest.mark.parametrize("key", [b"bytes", 7, "key\n"])
def test_a_key_that_is_not_text_is_refused(key: Any) -> None:
    """A key read as bytes, or with the end of its line, is refused by the client and not by the library."""
    with pytest.raises(ValueError, match="api_key must be printable ASCII"):
        Client("http://h", api_key=key)


def test_credentials_are_stated_once() -> None:
    """Those in the address would silently replace the key."""
    with pytest.raises(ValueError, match="either in base_url or as api_key"):
        Client("http://user:password@h", api_key="key")


@both_clients
def test_a_service_is_reached_over_ipv6(ask: Ask) -> None:
    """The address is written with brackets, and so it is in messages."""

    class Server6(ScriptedServer):
        address_family = socket.AF_INET6

        def __init__(self) -> None:
            super().__init__((NO_PIPELINES, problem("draining", 503), Answer(404)), host="::1")

    try:
        opened = Server6()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with opened as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://[::1]:{server.server_port}/"
            assert ask(url, "pipelines", time=FakeTime()) == ()
            assert ask(url, "ready", time=FakeTime()) is False
            with pytest.raises(Exception, match=r"http://\[::1\]:\d+ answered 404"):
                ask(url, "pipelines", time=FakeTime())
        finally:
            server.shutdown()
            thread.join()


class _Early:
    """Refuses an upload as a gate does: with an answer to its head, before its body was read."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.tries = 0

    def run(self) -> None:
        document = problem("upload-too-large", 413)
        while True:
            connection, _ = self._listener.accept()
            with connection:
                head = connection.recv(65536)
                if not head:
                    return
                self.tries += 1
                connection.sendall(
                    b"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/problem+json\r\n"
                    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(document.body), document.body)
                )
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # a server that lingers, so that its answer is not lost
                    pass

    def stop(self, thread: threading.Thread) -> None:
        """End `thread`, which runs this server."""
        socket.create_connection(self._listener.getsockname()).close()
        thread.join()
        self._listener.close()


def test_a_very_large_upload_that_is_refused_early_is_a_typed_error() -> None:
    """The refusal is read although the upload was not complete, and not tried again."""
    server = _Early()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with pytest.raises(UploadTooLargeError) as caught:
            ask_sync(server.url, "analyze_region", bytes(60_000_000), pipeline="p", time=FakeTime())
    finally:
        server.stop(thread)
    assert caught.value.tries == server.tries == 1


def test_a_very_large_image_is_sent_without_being_held(tmp_path: Path) -> None:
    """Three gigabytes: the length is stated beforehand, and the file is read block by block."""
    from slidecascade_client.body import region_body

    path = tmp_path / "slide.tif"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    body = region_body(path, "{}")
    largest = total = 0
    for chunk in body.chunks():
        largest, total = max(largest, len(chunk)), total + len(chunk)
    body.close()
    assert total == body.size_bytes > 3 * 2**30
    assert largest <= 2**18


@both_clients
@pytest.mark.parametrize("media_type", ["text/html", "application/octet-stream", "", "application/json"])
def test_an_archive_of_another_stated_type_is_unexpected(ask: Ask, media_type: str) -> None:
    """A portal, or a proxy that rewrites types, is not accepted as the service."""
    with (
        scripted(Answer(200, b"PK\x05\x06" + bytes(18), media_type)) as server,
        pytest.raises(UnexpectedAnswerError, match="instead of application/zip"),
    ):
        ask(server.url, "analyze_region", b"image", pipeline="p", time=FakeTime())


@both_clients
@pytest.mark.parametrize("media_type", ["Application/ZIP", "application/zip; charset=binary"])
def test_a_media_type_is_read_as_http_says(ask: Ask, media_type: str) -> None:
    """Case and parameters do not count: it is the missing files that are reported."""
    with (
        scripted(Answer(200, b"PK\x05\x06" + bytes(18), media_type)) as server,
        pytest.raises(UnexpectedAnswerError, match="lacks"),
    ):
        ask(server.url, "analyze_region", b"image", pipeline="p", time=FakeTime())


@both_clients
def test_a_compressed_answer_that_ends_early_is_never_half_an_answer(ask: Ask) -> None:
    """A cut gzip stream of the stated length looks complete to HTTP."""
    whole = gzip.compress(b'{"pipelines": []}' + b" " * 1000)
    cut = Answer(200, whole[:15], headers={"Content-Encoding": "gzip"})
    with scripted(cut) as server, pytest.raises(UnexpectedAnswerError):
        ask(server.url, "pipelines", time=FakeTime())


@both_clients
def test_a_truncated_archive_is_never_half_a_result(ask: Ask) -> None:
    """An answer without a length that ends early is not a zip archive."""
    with (
        scripted(Answer(200, b"PK\x03\x04" + bytes(500), ZIP)) as server,
        pytest.raises(UnexpectedAnswerError, match="zip"),
    ):
        ask(server.url, "analyze_region", b"image", pipeline="p", time=FakeTime())


@both_clients
@pytest.mark.parametrize("location", ["", "?again=1", "//[", "http://127.0.0.1:1/v1/pipelines", "file:///etc"])
def test_a_strange_redirect_ends_in_one_typed_error(ask: Ask, location: str) -> None:
    """Empty, relative, unreadable, to another port, to a file: followed at home a few times, never elsewhere."""
    with (
        scripted(Answer(302, headers={"Location": location})) as server,
        pytest.raises(UnexpectedAnswerError, match="redirects"),
    ):
        ask(server.url, "pipelines", time=FakeTime())
    assert len(server.received) <= 6


def test_a_file_in_use_by_another_program_is_sent_from_where_it_stood() -> None:
    """The caller's file is left open, at whatever place; a second call sends the same bytes again."""
    file = io.BytesIO(b"header" + b"image")
    file.seek(6)
    for _ in range(2):
        file.seek(6)
        assert _sent(ask_sync, file)[1] == b"image"
    assert not file.closed
