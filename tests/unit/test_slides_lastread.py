"""The pixels of a tile are read once, whichever networks ask for parts of them."""

from __future__ import annotations

import numpy as np
import pytest

from slidecascade.geometry import Box
from slidecascade.slides import slide as slides
from slidecascade.slides.jpegtiles import JpegTiles
from slidecascade.slides.lastread import LastRead
from slidecascade.slides.slide import Slide
from slidecascade.slides.source import Rgb
from slidecascade_render.slides import write_pyramid


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """3000 x 1400 px of noise in two levels."""
    pixels = np.random.default_rng(3).integers(0, 256, (1400, 3000, 3), np.uint8)

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        return pixels[y_px : y_px + height_px, x_px : x_px + width_px]

    path = tmp_path_factory.mktemp("slides") / "noise.tif"
    write_pyramid(path, draw, 3000, 1400, mpp=0.25, levels=2)
    return Slide.open(path)


class Counted(LastRead):
    """A source that notes what is read of it."""

    def __init__(self, source: Slide) -> None:
        super().__init__(source)
        self._slide = source
        self.boxes: list[Box] = []

    def read_level(self, level: int, box: Box) -> Rgb:
        self.boxes.append(box)
        return self._slide.read_level(level, box)


def test_boxes_inside_the_largest_one_are_not_read_again(slide: Slide) -> None:
    """They have the pixels that the slide gives; others, and those of another level, are read."""
    source = Counted(slide)
    view = LastRead(source)
    tile, crops, beyond, lower = Box(40, 60, 500, 400), Box(90, 60, 450, 400), Box(30, 60, 99, 99), Box(0, 0, 9, 9)
    for level, box in ((0, tile), (0, crops), (0, beyond), (0, tile), (1, lower)):
        np.testing.assert_array_equal(view.read_level(level, box), slide.read_level(level, box))
    assert source.boxes == [tile, beyond, lower]


def test_what_is_cut_out_cannot_be_changed(slide: Slide) -> None:
    """Two networks see the same pixels."""
    view = LastRead(slide)
    view.read_level(0, Box(0, 0, 100, 100))
    part = view.read_level(0, Box(10, 10, 20, 20))
    with pytest.raises(ValueError, match="read-only"):
        part[:] = 0


@pytest.fixture
def _by_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    """As slides are read whose tiles are not decoded directly."""
    monkeypatch.setattr(JpegTiles, "read", lambda *_: None)


@pytest.mark.usefixtures("_by_openslide")
@pytest.mark.parametrize("piece_px", [2**30, 2**20, 2**16, 700])
def test_the_pieces_of_a_read_do_not_show(slide: Slide, monkeypatch: pytest.MonkeyPatch, piece_px: int) -> None:
    """Whole or in pieces of any size, at both levels: the pixels are the same."""
    boxes = ((0, Box(13, 77, 2900, 1211)), (1, Box(3, 5, 700, 301)))
    monkeypatch.setattr(slides, "_PIECE_PX", 2**40)
    whole = [slide.read_level(level, box) for level, box in boxes]
    monkeypatch.setattr(slides, "_PIECE_PX", piece_px)
    for (level, box), expected in zip(boxes, whole, strict=True):
        np.testing.assert_array_equal(slide.read_level(level, box), expected)


@pytest.mark.usefixtures("_by_openslide")
def test_a_read_is_made_in_pieces_of_bounded_size(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenSlide is asked for at once does not grow with the box."""
    asked: list[int] = []
    read = slide._handle.read_region

    class Handle:
        def read_region(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> object:
            asked.append(size[0] * size[1])
            return read(place, level, size)

    monkeypatch.setattr(slide, "_handle", Handle())
    slide.read_level(0, Box(13, 77, 2900, 1211))
    assert max(asked) <= slides._PIECE_PX
    assert len(asked) <= 6
