"""What a region reserves of memory, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

import decoding_peak
import png_files
from slidecascade import wire
from slidecascade.analysis import footprint
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import OverloadedError, RegionTooLargeError, SlideCascadeError
from slidecascade.geometry import Box
from slidecascade.settings import Settings
from slidecascade.slides.canvas import Watch
from slidecascade.slides.slide import Slide
from slidecascade.slides.source import Rgb
from slidecascade.slides.upload import EncodedImage, open_image
from slidecascade.timing import Silent
from toy_pipeline import HALO_PX, ToyPipeline, blobs
from unwritten_slide import write_unwritten

REQUEST = wire.RegionRequest(pipeline="toy", mpp=0.5)
MIB = 2**20


class Reserved(Silent):
    """What is reserved now, and the most that was."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def memory(self, reserved: int) -> None:
        self.now = reserved
        self.most = max(self.most, reserved)


@pytest.fixture
def reserved() -> Reserved:
    return Reserved()


@pytest.fixture
def make_analyser(tmp_path: Path, reserved: Reserved) -> Iterator[Callable[[int], Analyser]]:
    """An analyser whose regions share so many MiB."""
    toy = ToyPipeline(tmp_path)
    made: list[Analyser] = []

    def make(memory_mib: int) -> Analyser:
        settings = Settings(
            models_dir=toy.models_dir,
            pipelines_dir=toy.pipelines_dir,
            slide_roots=(tmp_path,),
            threads=1,
            memory_mib=memory_mib,
        )
        made.append(Analyser(settings, observer=reserved, make_runner=lambda _packages: toy.runner))
        return made[-1]

    yield make
    for analyser in made:
        analyser.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, reserved: Reserved) -> list[int]:
    """What was reserved whenever an image was decoded."""
    seen: list[int] = []
    decode = EncodedImage.decode_watched

    def watched(image: EncodedImage, watch: Watch) -> Rgb:
        seen.append(reserved.now)
        return decode(image, watch)

    monkeypatch.setattr(EncodedImage, "decode_watched", watched)
    return seen


def test_memory_is_reserved_before_an_image_is_decoded(
    make_analyser: Callable[[int], Analyser], reserved: Reserved, decoded: list[int]
) -> None:
    """All that decoding takes; afterwards the pixels, cells and answer; at the end nothing."""
    analyser = make_analyser(500)
    share = analyser.memory.share()
    image = png_files.zeros(1000, 1000)
    encoded = open_image(image, max_px=10**6)
    analyser.analyse(REQUEST, image, Control(), share=share)

    assert decoded == [len(image) + encoded.peak_bytes]
    assert encoded.peak_bytes > encoded.decoded_bytes == 3 * 10**6
    assert reserved.now == len(image) + encoded.decoded_bytes + footprint.CELLS_BYTES_PER_PX * 10**6
    share.release()
    assert reserved.now == 0


def test_an_image_that_never_fits_is_not_decoded(
    make_analyser: Callable[[int], Analyser], decoded: list[int]
) -> None:
    """10,000 x 10,000 pixels in a budget of 200 MiB are refused for what the header says."""
    analyser = make_analyser(200)
    with pytest.raises(RegionTooLargeError, match="MiB of memory, and all regions together have 200"):
        analyser.analyse(REQUEST, png_files.zeros(10_000, 10_000), Control(), share=analyser.memory.share())
    assert decoded == []


@pytest.mark.parametrize(
    ("wrong", "side", "problem"),
    [
        ({"mpp": 50.0}, 100, "too coarse"),
        ({"mpp": None}, 100, "send `mpp`"),
        ({"region": {"x": 50, "y": 0, "width": 60, "height": 5}}, 100, "not inside"),
        ({"mpp": 4.0}, 1100, "has 8800 x 8800 pixels for a model"),
    ],
)
def test_what_is_wrong_with_a_request_is_reported_before_decoding(
    make_analyser: Callable[[int], Analyser],
    decoded: list[int],
    reserved: Reserved,
    wrong: dict[str, object],
    side: int,
    problem: str,
) -> None:
    """A pixel size too coarse or missing, a region that is not inside, one enlarged to too many pixels."""
    analyser = make_analyser(500)
    request = wire.RegionRequest.model_validate({"pipeline": "toy", "mpp": 0.5} | wrong)
    with pytest.raises(SlideCascadeError, match=problem):
        analyser.analyse(request, png_files.zeros(side, side), Control(), share=analyser.memory.share())
    assert decoded == []
    assert reserved.most == 0


def test_a_region_of_a_slide_reserves_before_a_pixel_is_read(
    make_analyser: Callable[[int], Analyser], reserved: Reserved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells and those of the halo around it; at the slide's edge there is no halo."""
    write_unwritten(tmp_path / "slide.tif", blobs(3, 512, 512, 60), tile_px=128, unwritten=0)
    analyser = make_analyser(500)
    seen: list[int] = []
    read = Slide.read_level

    def watched(slide: Slide, level: int, box: Box) -> Rgb:
        seen.append(reserved.now)
        return read(slide, level, box)

    monkeypatch.setattr(Slide, "read_level", watched)
    for x, width_px in ((256, 100 + 2 * HALO_PX), (0, 100 + HALO_PX)):
        region = {"x": x, "y": 200, "width": 100, "height": 50}
        request = wire.RegionRequest.model_validate(
            {"pipeline": "toy", "mpp": 0.5, "slide": "slide.tif", "region": region}
        )
        share = analyser.memory.share()
        analyser.analyse(request, None, Control(), share=share)
        assert seen
        assert set(seen) == {footprint.CELLS_BYTES_PER_PX * width_px * (50 + 2 * HALO_PX)}
        seen.clear()
        share.release()
    assert reserved.now == 0


def test_more_cells_than_expected_are_reserved_or_refused(
    make_analyser: Callable[[int], Analyser], reserved: Reserved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region that turns out denser than any tissue takes more, and where there is no more it ends."""
    image = bytes(cv2.imencode(".png", blobs(0, 256, 256, 40)[..., ::-1])[1])
    analyser = make_analyser(60)
    share = analyser.memory.share()
    found = analyser.analyse(REQUEST, image, Control(), share=share).cells.instances
    assert len(found) > 5
    expected = reserved.now
    share.release()

    monkeypatch.setattr(footprint, "CELLS_BYTES_PER_PX", 0)
    share = analyser.memory.share()
    analyser.analyse(REQUEST, image, Control(), share=share)
    assert reserved.now == expected - 2 * 256 * 256 + footprint.cells_bytes(found)
    share.release()

    one_copy = footprint.cells_bytes(found) / footprint.CELL_COPIES
    other = analyser.memory.share()
    other.reserve(30 * MIB, Control())
    for mib, error in ((70, RegionTooLargeError), (40, OverloadedError)):
        monkeypatch.setattr(footprint, "CELL_COPIES", int(mib * MIB / one_copy))
        share = analyser.memory.share()
        with pytest.raises(error):
            analyser.analyse(REQUEST, image, Control(), share=share)
        share.release()


def test_an_answer_with_a_picture_takes_more() -> None:
    """And more still where its pixels are read from a slide; never more than for the largest overview."""

    def needed(side: int, **how: bool) -> int:
        return footprint.answer_bytes(Box(0, 0, side, side), overview_side_px=4096, **how)

    assert needed(1000, decoded=True) < needed(1000, decoded=False) < needed(4096, decoded=False)
    assert needed(20_000, decoded=True) == needed(5000, decoded=True) < 2**29


@pytest.mark.skipif(sys.platform != "linux", reason="high-water marks of memory are Linux's")
def test_decoding_never_takes_more_than_was_reserved_for_it() -> None:
    """Every kind of image, by the high-water mark of a process; most PNGs take little more than their pixels."""
    side = 2000
    command = [sys.executable, decoding_peak.__file__, str(side)]
    lines = subprocess.run(command, capture_output=True, check=True, text=True, timeout=120).stdout.splitlines()
    found = {record["kind"]: record for record in map(json.loads, lines)}

    assert len(found) == len(list(decoding_peak.kinds(side)))
    assert {kind: record for kind, record in found.items() if record["peak"] > record["bound"]} == {}
    streamed = [
        kind for kind in found if kind.startswith("png") or kind in ("jpeg", "tiff one strip", "tiff tiles")
    ]
    assert max(found[kind]["peak"] - found[kind]["decoded"] for kind in streamed) < 24 * MIB
