"""JPEG tiles that are decoded without OpenSlide have its pixels, and whatever is unusual is left to it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from cut_jpeg import tiled_jpeg_tiff
from slidecascade.geometry import Box
from slidecascade.slides import jpegtiles
from slidecascade.slides.alpha import on_white
from slidecascade.slides.jpegtiles import JpegLevel
from slidecascade.slides.slide import Slide
from slidecascade.slides.source import Rgb
from slidecascade.slides.storedparts import OpenFile
from slidecascade.slides.tiff import first_directory

WIDTH_PX, HEIGHT_PX, TILE_PX = 500, 420, 128
COLOUR = cv2.GaussianBlur(np.random.default_rng(8).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), np.uint8), (0, 0), 2)
BOXES = (Box(0, 0, WIDTH_PX, HEIGHT_PX), Box(60, 37, 301, 350), Box(256, 128, 244, 292), Box(128, 128, 128, 128))
ADOBE, COMMENT = b"\xff\xee\x00\x0eAdobe", b"\xff\xfe\x00\x0eAdobe"

SLIDES = {
    "YCbCr": tiled_jpeg_tiff(COLOUR, TILE_PX),
    "YCbCr, colour planes of half the width": tiled_jpeg_tiff(COLOUR, TILE_PX, subsampling="4:2:2"),
    "YCbCr, colour planes of half the sides": tiled_jpeg_tiff(COLOUR, TILE_PX, subsampling="4:2:0"),
    "RGB": tiled_jpeg_tiff(COLOUR, TILE_PX, keep_rgb=True),
    "RGB that the directory alone states": tiled_jpeg_tiff(COLOUR, TILE_PX, keep_rgb=True).replace(ADOBE, COMMENT),
}


def _directly(path: Path, box: Box) -> Rgb | None:
    source = OpenFile(path)
    level = JpegLevel.of(first_directory(source))
    try:
        return None if level is None else level.read(source, box)
    finally:
        source.close()


def _by_openslide(path: Path, box: Box) -> Rgb:
    with openslide.OpenSlide(path) as slide:
        return on_white(np.asarray(slide.read_region((box.x, box.y), 0, (box.width, box.height))))


@pytest.mark.parametrize("kind", SLIDES)
@pytest.mark.parametrize("box", BOXES)
def test_pixels_are_those_of_openslide(tmp_path: Path, kind: str, box: Box) -> None:
    """Bit for bit, also at the edges of the slide, where tiles go on beyond it."""
    path = tmp_path / "slide.tif"
    path.write_bytes(SLIDES[kind])

    pixels = _directly(path, box)

    assert pixels is not None
    np.testing.assert_array_equal(pixels, _by_openslide(path, box))
    np.testing.assert_array_equal(Slide.open(path).read_level(0, box), pixels)


def test_slides_read_large_boxes_without_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide takes three times as long for them."""
    path = tmp_path / "slide.tif"
    path.write_bytes(SLIDES["YCbCr"])
    slide = Slide.open(path)
    expected = _by_openslide(path, BOXES[0])
    monkeypatch.setattr(openslide.OpenSlide, "read_region", None)

    np.testing.assert_array_equal(slide.read_level(0, BOXES[0]), expected)


def test_small_boxes_are_left_to_openslide_which_keeps_their_tiles(tmp_path: Path) -> None:
    """A viewer that asks for parts of a large stored tile does not make it decoded again and again."""
    path = tmp_path / "slide.tif"
    path.write_bytes(SLIDES["YCbCr"])
    side = int((jpegtiles.LEAST_USED * TILE_PX**2) ** 0.5)

    assert _directly(path, Box(0, 0, side, side)) is None
    assert _directly(path, Box(0, 0, side + 1, side + 1)) is not None


def test_what_is_stored_otherwise_is_left_to_openslide(tmp_path: Path) -> None:
    """Tiles without bytes, streams of another size or another colour space, and levels of grey."""
    whole = SLIDES["YCbCr"]
    odd = {
        "grey": tiled_jpeg_tiff(COLOUR[..., 0], TILE_PX),
        "smaller tiles": whole,
        "RGB, says the directory": whole,
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
    with tifffile.TiffFile(tmp_path / "smaller tiles", mode="r+b") as file:
        file.pages[0].tags["TileLength"].overwrite(TILE_PX // 2)
    with tifffile.TiffFile(tmp_path / "RGB, says the directory", mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(2)
    (tmp_path / "unstored").write_bytes(whole)
    with tifffile.TiffFile(tmp_path / "unstored", mode="r+b") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])

    for name in (*odd, "unstored"):
        assert _directly(tmp_path / name, BOXES[0]) is None, name
    assert (Slide.open(tmp_path / "unstored").read_level(0, BOXES[0])[:TILE_PX, :TILE_PX] == 255).all()
