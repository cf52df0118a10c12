"""What the clients send for an image."""

from __future__ import annotations

import io
import os
import socket
import threading
import time as real_time
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from scripted_server import (
    HTML_502,
    Answer,
    Ask,
    Drop,
    FakeTime,
    Received,
    both_clients,
    problem,
    scripted,
)
from slidecascade.wire import RegionBox, RegionRequest
from slidecascade_client import (
    Client,
    InvalidRequestError,
    RetryPolicy,
    TimedOutError,
    UndecodableImageError,
    UnknownPipelineError,
)
from slidecascade_client.png import png_chunks

END = problem("unknown-pipeline", 404)
PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)


def _parts(request: Received) -> tuple[RegionRequest, EmailMessage]:
    """The request document and the image part of a multipart request, as another implementation reads them."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.body, policy=policy.HTTP)
    document, image = cast("list[EmailMessage]", list(message.iter_parts()))
    assert document.get_param("name", header="content-disposition") == "request"
    assert image.get_param("name", header="content-disposition") == "image"
    return RegionRequest.model_validate_json(document.get_content()), image


def _post(ask: Ask, image: Any, **kwargs: Any) -> tuple[RegionRequest, EmailMessage]:
    with scripted(END) as server, pytest.raises(UnknownPipelineError):
        ask(server.url, "analyze_region", image, pipeline="p", time=FakeTime(), **kwargs)
    return _parts(server.received[0])


def _decoded(content: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    return cast("NDArray[np.uint8]", image)


@both_clients
@pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "memoryview", "file", "middle", "pipe"])
def test_an_image_may_come_in_many_shapes(ask: Ask, kind: str, tmp_path: Path) -> None:
    """Paths, bytes, files (from where they stand) and pipes all send the same bytes."""
    content = bytes(range(256)) * 3000  # larger than one block, with every byte, line ends included
    path = tmp_path / "PATIENT-4711.png"
    path.write_bytes(b"skip" + content if kind == "middle" else content)
    images: dict[str, Any] = {
        "path": path,
        "str": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
    }
    with path.open("rb") as file:
        if kind == "middle":
            file.seek(4)
        image = images.get(kind, file)
        if kind == "pipe":
            image = _pipe(content)
        _, part = _post(ask, image)
        assert not file.closed
    if kind == "pipe":
        image.close()
    assert part.get_payload(decode=True) == content
    assert "PATIENT" not in str(part["Content-Disposition"])


def _pipe(content: bytes) -> io.BufferedReader:
    """The reading end of a pipe, which cannot seek."""
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb") as file:
            file.write(content)

    threading.Thread(target=write).start()
    return os.fdopen(read_end, "rb")


@both_clients
def test_the_fields_of_a_request_are_sent(ask: Ask) -> None:
    """Everything the caller gave reaches the service, and nothing else."""
    request, _ = _post(
        ask,
        b"image",
        mpp=0.5,
        region=(1, 2, 3, 4),
        thresholds={"nuclei": 0.4},
        tile_px=512,
        allow_partial=True,
        deadline_s=9.5,
    )
    assert request == RegionRequest(
        pipeline="p",
        mpp=0.5,
        region=RegionBox(x=1, y=2, width=3, height=4),
        thresholds={"nuclei": 0.4},
        tile_px=512,
        allow_partial=True,
        deadline_s=9.5,
    )


@both_clients
def test_a_slide_is_named_in_json(ask: Ask) -> None:
    """Without an image the request is plain JSON; numpy's integers are integers."""
    region = tuple(np.array([0, -5, 2048, 2048]))
    with scripted(END) as server, pytest.raises(UnknownPipelineError):
        ask(server.url, "analyze_region", pipeline="p", slide="a/b.svs", region=region, time=FakeTime())
    (received,) = server.received
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["Accept"] == "application/zip"
    box = RegionBox(x=0, y=-5, width=2048, height=2048)
    assert RegionRequest.model_validate_json(received.body) == RegionRequest(
        pipeline="p", slide="a/b.svs", region=box
    )


@both_clients
@pytest.mark.parametrize("act", [HTML_502, Drop(), Answer(307, headers={"Location": "/elsewhere"})])
def test_the_image_is_sent_whole_every_time(ask: Ask, act: Answer | Drop) -> None:
    """A file is rewound for the next try."""
    file = io.BytesIO(b"skip" + b"image" * 200_000)
    file.seek(4)
    with scripted(act, act, END) as server, pytest.raises(UnknownPipelineError):
        ask(server.url, "analyze_region", file, pipeline="p", time=FakeTime())
    assert len(server.received) == 3
    assert len({request.body for request in server.received}) == 1
    assert _parts(server.received[2])[1].get_payload(decode=True) == b"image" * 200_000


@both_clients
def test_pixels_are_sent_as_they_are(ask: Ask) -> None:
    """An array arrives as a PNG of exactly its pixels."""
    _, part = _post(ask, PIXELS)
    np.testing.assert_array_equal(_decoded(cast("bytes", part.get_payload(decode=True))), PIXELS)


@given(pixels=npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_png_holds_exactly_the_pixels(pixels: NDArray[np.uint8]) -> None:
    """Another decoder reads the same array, whatever its values."""
    np.testing.assert_array_equal(_decoded(b"".join(png_chunks(pixels))), pixels)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::2], np.s_[..., ::-1], np.s_[5:9, 7:8]])
def test_a_png_of_a_view_holds_its_pixels(view: Any) -> None:
    """Flipped, strided and cropped arrays need no copy by the caller."""
    np.testing.assert_array_equal(_decoded(b"".join(png_chunks(PIXELS[view]))), PIXELS[view])


def test_a_png_of_several_blocks_of_rows_is_seamless() -> None:
    """The row filter looks across the border of two blocks."""
    tall = np.random.default_rng(1).integers(0, 256, (600, 3, 3), np.uint8)
    np.testing.assert_array_equal(_decoded(b"".join(png_chunks(tall))), tall)


@both_clients
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused(ask: Ask, image: Any) -> None:
    """Grey, RGBA, float and empty arrays are distinguished before sending."""
    with scripted(END) as server, pytest.raises(ValueError, match=r"uint8 RGB of shape \(H, W, 3\)"):
        ask(server.url, "analyze_region", image, pipeline="p", time=FakeTime())
    assert server.received == []


@both_clients
@pytest.mark.parametrize("image", [io.StringIO("text"), 5, object()])
def test_other_values_than_images_are_type_errors(ask: Ask, image: Any) -> None:
    """A text file or a number is a mistake of the program."""
    with pytest.raises(TypeError, match="An image is a path, bytes"):
        ask("http://h", "analyze_region", image, pipeline="p", time=FakeTime())


@both_clients
def test_a_missing_file_is_reported_as_missing(ask: Ask, tmp_path: Path) -> None:
    """The system's own error says it best."""
    with pytest.raises(FileNotFoundError):
        ask("http://h", "analyze_region", tmp_path / "none.png", pipeline="p", time=FakeTime())
    with pytest.raises(IsADirectoryError):
        ask("http://h", "analyze_region", tmp_path, pipeline="p", time=FakeTime())


@both_clients
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"mpp": float("nan")}, "mpp"),
        ({"mpp": 0}, "mpp"),
        ({"mpp": -0.5}, "mpp"),
        ({"mpp": "half"}, "mpp"),
        ({"region": (0, 0, -5, 5)}, "region.width"),
        ({"region": (0, 0, 5)}, "region"),
        ({"region": (0.5, 0, 5, 5)}, "region"),
        ({"region": 7}, "region"),
        ({"thresholds": {"nuclei": 2}}, "thresholds.nuclei"),
        ({"tile_px": 3}, "tile_px"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"pipeline": ""}, "pipeline"),
        ({"slide": "a.svs"}, "image"),
        ({"image": None}, "image"),
    ],
)
def test_an_invalid_field_is_reported_before_sending(ask: Ask, wrong: dict[str, Any], field: str) -> None:
    """The upload of a large image is not needed to learn that mpp is NaN."""
    arguments = {"image": b"image", "pipeline": "p", **wrong}
    image = arguments.pop("image")
    with scripted(END) as server, pytest.raises(InvalidRequestError) as caught:
        ask(server.url, "analyze_region", image, time=FakeTime(), **arguments)
    assert server.received == []
    assert [error.field for error in caught.value.errors] == [field]
    assert str(caught.value).startswith("Nothing was sent")
    assert caught.value.status is None
    assert isinstance(caught.value, ValueError)


@both_clients
def test_an_empty_image_is_for_the_service_to_judge(ask: Ask) -> None:
    """Zero bytes are sent and get the service's own error."""
    with scripted(problem("undecodable-image", 422)) as server, pytest.raises(UndecodableImageError):
        ask(server.url, "analyze_region", b"", pipeline="p", time=FakeTime())
    assert _parts(server.received[0])[1].get_payload(decode=True) == b""


@both_clients
def test_an_image_that_shrinks_while_it_is_sent_is_reported(ask: Ask) -> None:
    """A file that another program is still writing does not become half an image."""

    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(0) if size else b""

    with scripted(END) as server, pytest.raises(OSError, match="shorter"):
        ask(server.url, "analyze_region", Shrinking(b"image"), pipeline="p", time=FakeTime())


def test_a_server_that_does_not_read_runs_into_the_time_limit() -> None:
    """A stuck upload ends too."""
    started = real_time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as stuck:  # the system accepts, nobody reads
        url = f"http://127.0.0.1:{stuck.getsockname()[1]}"
        with Client(url, timeout_s=0.3, retry=RetryPolicy()) as client, pytest.raises(TimedOutError):
            client.analyze_region(bytes(20_000_000), pipeline="p")
    assert real_time.monotonic() - started < 3.0
