"""DICOMweb without a DICOM server: retries, tokens, lazily read frames, storing, from scripted answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scripted_server import Answer, Drop, FakeTime, ScriptedServer, scripted
from slidecascade.errors import InvalidRequestError, NotReadyError, SettingsError, UnreadableSlideError
from slidecascade.exports.stow import store
from slidecascade.geometry import Box
from slidecascade.settings import read_settings
from slidecascade.slides.dicomweb import DicomWeb, token_of
from slidecascade.slides.dicomwebslide import DicomWebSlides, slides_of

FRAME_PX = 32
COLUMNS, ROWS = 70, 50
SLIDE = "dicomweb:pacs/1.2/3.4"
TOKEN = "secret-word"  # noqa: S105  # of no server
PIXELS = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
"""Three by two frames, of which the slide covers 70 x 50 px."""


def element(*values: object) -> dict[str, Any]:
    return {"Value": list(values)}


def metadata(changes: dict[str, Any] | None = None, *, sparse: tuple[tuple[int, int], ...] = ()) -> Answer:
    """A series of a level and a label; `sparse` has the columns and rows of stored frames."""
    spacing = {"00289110": element({"00280030": element(0.0005, 0.0005)})}
    level = {
        "00080016": element("1.2.840.10008.5.1.4.1.1.77.1.6"),
        "00080018": element("9.1"),
        "00080008": element("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
        "00280010": element(FRAME_PX),
        "00280011": element(FRAME_PX),
        "00280002": element(3),
        "00280100": element(8),
        "00480006": element(COLUMNS),
        "00480007": element(ROWS),
        "00209311": element("TILED_SPARSE" if sparse else "TILED_FULL"),
        "52009229": element(spacing),
        "52009230": element(
            *(
                {
                    "0048021A": element(
                        {"0048021E": element(x * FRAME_PX + 1), "0048021F": element(y * FRAME_PX + 1)}
                    )
                }
                for x, y in sparse
            )
        ),
    }
    label = level | {"00080018": element("9.2"), "00080008": element("ORIGINAL", "PRIMARY", "LABEL", "NONE")}
    label |= {"00480006": element(9000), "00480007": element(9000)}
    return Answer(body=json.dumps([label, level | (changes or {})]).encode(), media_type="application/dicom+json")


def tile(column: int, row: int) -> NDArray[np.uint8]:
    return PIXELS[row * FRAME_PX : (row + 1) * FRAME_PX, column * FRAME_PX : (column + 1) * FRAME_PX]


def frames(*bodies: bytes) -> Answer:
    """A multipart answer."""
    parts = b"".join(b"--b\r\nContent-Type: application/octet-stream\r\n\r\n" + body + b"\r\n" for body in bodies)
    return Answer(body=parts + b"--b--\r\n", media_type='multipart/related; type="x"; boundary=b')


def slides(server: ScriptedServer, *, time: FakeTime | None = None, cache_bytes: int = 2**20) -> DicomWebSlides:
    time = time or FakeTime()
    web = DicomWeb("pacs", server.url, lambda: TOKEN, time.policy(max_tries=3), time.sleep)
    return DicomWebSlides({"pacs": web}, handles=2, cache_bytes=cache_bytes)


def test_frames_are_fetched_when_they_are_read_and_kept() -> None:
    """Those a box needs, in one request; reading them again needs none."""
    answers = (metadata(), frames(tile(1, 0).tobytes(), tile(2, 0).tobytes()))
    with scripted(*answers) as server, slides(server).open(SLIDE) as slide:
        assert (slide.size_l0.width, slide.size_l0.height, slide.mpp) == (COLUMNS, ROWS, 0.5)
        assert slide.level_sizes == (slide.size_l0,)  # a label is no level
        for _ in range(2):
            np.testing.assert_array_equal(slide.read_level(0, Box(40, 4, 30, 20)), PIXELS[4:24, 40:70])
        paths = [request.path for request in server.received]
    assert paths == ["/studies/1.2/series/3.4/metadata", "/studies/1.2/series/3.4/instances/9.1/frames/2,3"]
    assert all(request.headers["Authorization"] == f"Bearer {TOKEN}" for request in server.received)


def test_memory_for_frames_is_bounded() -> None:
    """The ones read last are kept; a box that is larger than the cache is read all the same."""
    bodies = [tile(x, y).tobytes() for y in (0, 1) for x in (0, 1, 2)]
    again = [frames(body) for body in bodies]
    with scripted(metadata(), frames(*bodies), *again) as server:
        found = slides(server, cache_bytes=2 * FRAME_PX**2 * 3)
        with found.open(SLIDE) as slide:
            np.testing.assert_array_equal(slide.read_level(0, Box(0, 0, COLUMNS, ROWS)), PIXELS[:ROWS, :COLUMNS])
        assert found.held_bytes <= 2 * FRAME_PX**2 * 3


def test_what_no_frame_has_is_white_and_counted() -> None:
    """Of sparse slides; their frames are numbered as they are listed."""
    answers = (metadata(sparse=((1, 0), (0, 0))), frames(tile(0, 0).tobytes(), tile(1, 0).tobytes()))
    with scripted(*answers) as server, slides(server).open(SLIDE) as slide:
        pixels = slide.read_level(0, Box(0, 0, 64, 50))
        np.testing.assert_array_equal(pixels[:32], PIXELS[:32, :64])
        assert (pixels[32:] == 255).all()
        assert slide.unstored_share(0, Box(0, 0, 64, 50)) == pytest.approx(18 / 50)
        assert server.received[1].path.endswith("/frames/2,1")


@pytest.mark.parametrize("form", ["JPEG", "JPEG2000"])
def test_compressed_frames_are_decoded(form: str) -> None:
    """As Pillow does."""
    file = io.BytesIO()
    Image.fromarray(tile(0, 0)).save(file, form)
    with scripted(metadata(), frames(file.getvalue())) as server, slides(server).open(SLIDE) as slide:
        expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
        np.testing.assert_array_equal(slide.read_level(0, Box(0, 0, 32, 32)), expected)


@pytest.mark.parametrize(
    "answer",
    [Answer(404), Answer(200), frames(), frames(b"short"), frames(b"\xff\xd8\xff"), frames(b"\xff\x4f\xff\x51")],
)
def test_frames_that_cannot_be_read_are_an_unreadable_slide(answer: Answer) -> None:
    """Never a picture of something else."""
    with (
        scripted(metadata(), answer) as server,
        slides(server).open(SLIDE) as slide,
        pytest.raises(UnreadableSlideError, match="pacs does not return the slide's frames"),
    ):
        slide.read_level(0, Box(0, 0, 32, 32))


def test_a_failing_server_is_asked_again_and_then_reported() -> None:
    """After waits that double; its own wish to be asked later is respected."""
    time = FakeTime()
    acts = (Answer(503, headers={"Retry-After": "3"}), Drop(), metadata())
    with scripted(*acts) as server, slides(server, time=time).open(SLIDE) as slide:
        assert slide.size_l0.width == COLUMNS
    assert time.sleeps == [3.5, 1.0]
    with (
        scripted(Answer(502)) as server,
        pytest.raises(NotReadyError, match="status 502") as error,
        slides(server).open(SLIDE),
    ):
        pass
    assert error.value.retry_after_s > 0


def test_a_rejected_token_and_other_series_are_reported() -> None:
    """With what the operator has to look at."""
    with (
        scripted(Answer(401)) as server,
        pytest.raises(UnreadableSlideError, match="token"),
        slides(server).open(SLIDE),
    ):
        pass
    for changes in ({"00280100": element(16)}, {"00480006": element()}, {"00080008": element("A", "B")}):
        with (
            scripted(metadata(changes)) as server,
            pytest.raises(UnreadableSlideError, match="whole slide"),
            slides(server).open(SLIDE),
        ):
            pass


def test_tokens_are_read_from_files_named_like_servers(tmp_path: Path) -> None:
    """At each request, because tokens are renewed; a server without a file is sent none."""
    tmp_path.joinpath("pacs").write_text("first\n")
    with scripted(metadata(), frames(tile(0, 0).tobytes())) as server:
        urls = {"pacs": server.url, "open": server.url}
        found = slides_of(urls, tmp_path, handles=2, cache_bytes=2**20)
        assert found is not None
        with found.open(SLIDE) as slide:
            tmp_path.joinpath("pacs").write_text("second\n")
            slide.read_level(0, Box(0, 0, 10, 10))
        with pytest.raises(UnreadableSlideError), found.open("dicomweb:open/1.2/3.4"):
            pass
        found.close()
        sent = [request.headers["Authorization"] for request in server.received]
    assert sent == ["Bearer first", "Bearer second", None]
    with pytest.raises(NotReadyError, match="cannot be read"):
        token_of(tmp_path / "gone")


@pytest.mark.parametrize("value", ["pacs", "pacs=ftp://x", "pa cs=http://x", "pacs=http://x,=http://y"])
def test_servers_are_named_with_addresses(value: str) -> None:
    """A setting that cannot be used is reported at start."""
    with pytest.raises(SettingsError, match="NAME=URL"):
        read_settings(dicomweb_servers=value)
    assert read_settings(dicomweb_servers="a=http://x/,b=https://y").dicomweb == {
        "a": "http://x",
        "b": "https://y",
    }


STORED = Answer(body=b'{"00081199": {"vr": "SQ", "Value": [{}]}}')
FAILED = Answer(409, b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}')


def test_a_file_is_stored_once_the_server_takes_it(tmp_path: Path) -> None:
    """The whole file is sent each time."""
    path, time = tmp_path / "object.dcm", FakeTime()
    path.write_bytes(b"\0" * 128 + b"DICM" + b"x" * 3_000_000)
    with scripted(Answer(503), Drop(), STORED) as server:
        store(path, DicomWeb("here", server.url, policy=time.policy(), sleep=time.sleep))
        assert len(time.sleeps) == 2
        for request in server.received[::2]:
            assert request.path == "/studies"
            kind = request.headers["Content-Type"]
            assert kind.startswith('multipart/related; type="application/dicom"; boundary=')
            boundary = kind.rpartition("=")[2].encode()
            head = b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n"
            assert request.body == head + path.read_bytes() + b"\r\n--" + boundary + b"--\r\n"


@pytest.mark.parametrize(
    ("answer", "said"), [(FAILED, "failure reason 272"), (Answer(400), "status 400"), (Answer(403), "token")]
)
def test_a_rejected_file_is_reported(tmp_path: Path, answer: Answer, said: str) -> None:
    """At once: repeating would not help."""
    path = tmp_path / "object.dcm"
    path.write_bytes(b"DICM")
    with scripted(answer) as server:
        with pytest.raises(InvalidRequestError, match=said):
            store(path, DicomWeb("here", server.url))
        assert len(server.received) == 1
