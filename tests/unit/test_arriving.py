"""An upload is worked on while it is decoded: the same answer as decoded first, and none of a damaged file."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, UndecodableImageError
from slidecascade.geometry import Box
from slidecascade.models.tensors import Tensors
from slidecascade.outputs.cells import geojson
from slidecascade.runners.runner import Runner
from slidecascade.settings import Settings
from slidecascade.slides import canvas, pngrows, tiffbands
from slidecascade.slides.arriving import ArrivingImage
from slidecascade.slides.upload import open_image
from slidecascade.timing import Silent
from toy_pipeline import ToyPipeline, blobs

Pixels = NDArray[np.uint8]

TIMEOUT_S = 30
BLOBS = np.ascontiguousarray(blobs(5, 384, 512, 60))
WHITE = np.full_like(BLOBS, 255)
HALF_GLASS = np.concatenate([WHITE[:256], BLOBS[:256]])
DARK = np.where(BLOBS.min(axis=2, keepdims=True) < 150, BLOBS, BLOBS // 8).astype(np.uint8)


@dataclass
class Recorder:
    """Runs the toy networks, and does `before` before each run."""

    runner: Runner
    before: Callable[[int], None] = lambda _number: None
    runs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, model: str, inputs: Tensors) -> Tensors:
        with self.lock:
            self.runs += 1
            number = self.runs
        self.before(number)
        return self.runner.run(model, inputs)

    def close(self) -> None: ...


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(ToyPipeline(tmp_path).runner)


@pytest.fixture
def analyser(tmp_path: Path, recorder: Recorder) -> Iterator[Analyser]:
    settings = Settings(models_dir=tmp_path / "models", pipelines_dir=tmp_path / "pipelines", threads=2)
    made = Analyser(settings, observer=Silent(), make_runner=lambda _packages: recorder)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a test image has many."""
    for module in (canvas, pngrows, tiffbands):
        monkeypatch.setattr(module, "BAND_BYTES", 20_000)


def request(**more: Any) -> wire.RegionRequest:
    return wire.RegionRequest(pipeline="toy", mpp=0.5, tile_px=128, **more)


def pillow(pixels: Pixels, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def turned(pixels: Pixels, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return pillow(pixels, "PNG", exif=exif)


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, photometric="rgb", **options)
    return out.getvalue()


ENCODINGS: dict[str, Callable[[Pixels], bytes]] = {
    "png, by OpenCV": lambda pixels: bytes(cv2.imencode(".png", pixels[..., ::-1])[1]),
    "png, by Pillow": lambda pixels: pillow(pixels, "PNG"),
    "png, 16 bits": lambda pixels: bytes(cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1]),
    "png, mirrored": lambda pixels: turned(pixels, 2),
    "png, upside down": lambda pixels: turned(pixels, 4),
    "png, on its side": lambda pixels: turned(pixels, 6),
    "jpeg": lambda pixels: pillow(pixels, "JPEG", quality=95),
    "webp": lambda pixels: pillow(pixels, "WEBP", lossless=True),
    "tiff, strips": lambda pixels: tiff(pixels, rowsperstrip=16),
    "tiff, deflated tiles": lambda pixels: tiff(pixels, tile=(64, 64), compression="zlib"),
    "tiff, planes": lambda pixels: tiff(pixels.transpose(2, 0, 1), planarconfig="separate", rowsperstrip=16),
}
FROM_ABOVE = ("png, by OpenCV", "png, by Pillow", "png, mirrored", "tiff, strips", "tiff, deflated tiles")
PICTURES = {"stained": BLOBS, "half of it glass": HALF_GLASS, "dark field": DARK, "all glass": WHITE}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_answer_is_that_of_an_image_decoded_first(analyser: Analyser, encoding: str, picture: str) -> None:
    """Cells, ids, tissue, facts and tiles, bit for bit, of every format and field."""
    image = ENCODINGS[encoding](PICTURES[picture])
    first = analyser.run(analyser.prepare(request(), image, Control()), Control()).cells
    meanwhile = analyser.analyse(request(), image, Control()).cells
    assert b"".join(geojson.encode(meanwhile)) == b"".join(geojson.encode(first))
    assert (meanwhile.facts, meanwhile.tiles, meanwhile.warnings) == (first.facts, first.tiles, first.warnings)
    assert np.array_equal(meanwhile.tissue.mask, first.tissue.mask)
    assert meanwhile.facts.dark_field == (picture == "dark field")
    assert (len(meanwhile.instances) > 10) == (picture in ("stained", "half of it glass"))


class Gate:
    """Holds up the decoding of an image at its band number `at` until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, *, module: Any, damage: bool = False) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        read = module.read_bands

        def gated(data: bytes) -> Iterator[canvas.Band]:
            for number, band in enumerate(read(data)):
                if number == at:
                    self.reached.set()
                    assert self.open.wait(TIMEOUT_S)
                    if damage:
                        raise UndecodableImageError("Damaged near the end.")
                yield band

        monkeypatch.setattr(module, "read_bands", gated)


@pytest.mark.parametrize("encoding", FROM_ABOVE)
def test_networks_run_before_the_last_rows_are_decoded(
    analyser: Analyser, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Decoding goes on only when the first tiles have been given to the segmenter."""
    image = ENCODINGS[encoding](BLOBS)
    gate = Gate(monkeypatch, 20, module=tiffbands if encoding.startswith("tiff") else pngrows)
    recorder.before = lambda number: gate.open.set() if number == 2 else None
    found = analyser.analyse(request(), image, Control()).cells
    assert gate.reached.is_set()
    assert len(found.instances) > 10


def test_damage_found_after_tiles_were_done_refuses_the_upload(
    analyser: Analyser, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a partial answer is allowed: a damaged file is not a failed tile."""
    gate = Gate(monkeypatch, 20, module=pngrows, damage=True)
    recorder.before = lambda number: gate.open.set() if number == 2 else None
    with pytest.raises(UndecodableImageError, match="Damaged near the end"):
        analyser.analyse(request(allow_partial=True), ENCODINGS["png, by OpenCV"](BLOBS), Control())
    assert recorder.runs >= 2


def test_damage_comes_before_what_is_wrong_with_a_tile(
    analyser: Analyser, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that fails while the rest of a damaged file is decoded: the caller can mend the file."""
    gate = Gate(monkeypatch, 20, module=pngrows, damage=True)

    def fail(_number: int) -> None:
        gate.open.set()
        raise ValueError("a fault of a network")

    recorder.before = fail
    with pytest.raises(UndecodableImageError, match="Damaged near the end"):
        analyser.analyse(request(), ENCODINGS["png, by OpenCV"](BLOBS), Control())


def refusal(work: Callable[[], object]) -> str | None:
    """What an image is refused for."""
    try:
        work()
    except UndecodableImageError as error:
        return error.detail
    return None


@pytest.mark.parametrize("encoding", ["png, by OpenCV", "png, by Pillow", "jpeg", "tiff, deflated tiles"])
def test_files_cut_or_changed_anywhere_are_refused_as_before(analyser: Analyser, encoding: str) -> None:
    """With the message of decoding first; changed bytes of a JPEG may be valid codes."""
    whole = ENCODINGS[encoding](BLOBS)
    for share in (0.5, 0.9, 0.99):
        at = int(len(whole) * share)
        for damaged in (whole[:at], whole[:at] + bytes(40) + whole[at + 40 :]):
            before = refusal(lambda: open_image(damaged, max_px=10**6).decode())  # noqa: B023 - called at once
            found = refusal(lambda: analyser.analyse(request(), damaged, Control()))  # noqa: B023 - as above
            assert found == before
            assert before is not None or (encoding == "jpeg" and len(damaged) == len(whole))


def test_decoding_ends_when_the_client_disconnects(
    analyser: Analyser, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads end, and the rest of the image is not decoded."""
    control, decoded = Control(), []
    read = pngrows.read_bands

    def counted(data: bytes) -> Iterator[canvas.Band]:
        for number, band in enumerate(read(data)):
            decoded.append(number)
            if number == 20:
                assert gate.wait(TIMEOUT_S)
            yield band

    gate = threading.Event()
    monkeypatch.setattr(pngrows, "read_bands", counted)
    left = analyser.memory.share()

    def leave(_number: int) -> None:
        control.cancel()
        threading.Timer(0.2, gate.set).start()

    recorder.before = leave
    with pytest.raises(CancelledError):
        analyser.analyse(request(), ENCODINGS["png, by OpenCV"](BLOBS), control, share=left)
    assert decoded[-1] <= 21
    assert not [thread for thread in threading.enumerate() if thread.name == "decode"]
    left.release()


def test_an_image_that_arrives_waits_for_the_rows_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of rows that are there are given at once, and are not to be written to."""
    gate = Gate(monkeypatch, 10, module=pngrows)
    image = ArrivingImage(open_image(ENCODINGS["png, by OpenCV"](BLOBS), max_px=10**6))
    assert gate.reached.wait(TIMEOUT_S)
    top = image.read_level(0, Box(10, 20, 30, 40))
    assert np.array_equal(top, BLOBS[20:60, 10:40])
    assert not top.flags.writeable
    assert not image.is_whole
    gate.open.set()
    assert np.array_equal(image.read_level(0, Box(0, 0, 384, 512)), BLOBS)
    image.finish()
    assert image.is_whole
