"""Slides of 16 bits a sample show what the same file shows as an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides.deeptiff import DeepTiff, KnownNarrowing
from slidecascade.slides.slide import Slide
from slidecascade.slides.tiff import Bytes, first_directory
from slidecascade.slides.upload import decode_image
from unwritten_slide import write_unwritten

PIXELS = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (300, 420, 3), np.uint8), (0, 0), 3)
SCALED = (PIXELS.astype(np.float64) / PIXELS.max()).clip(0, 1)
TILED: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "metadata": None}


def in_bits(bits: int) -> NDArray[np.uint16]:
    """A colour image whose brightest sample is the largest of so many bits."""
    return np.asarray(np.rint(SCALED * ((1 << bits) - 1)), np.uint16)


def everything(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    size = slide.level_sizes[level]
    return slide.read_level(level, Box(0, 0, size.width, size.height))


KINDS: dict[str, tuple[NDArray[np.uint16], dict[str, Any]]] = {
    "10 bits": (in_bits(10), {}),
    "12 bits": (in_bits(12), {}),
    "14 bits": (in_bits(14), {}),
    "16 bits": (in_bits(16), {}),
    "predictor": (in_bits(12), {"predictor": True}),
    "uncompressed": (in_bits(12), {"compression": None}),
    "big-endian BigTIFF": (in_bits(12), {"byteorder": ">", "bigtiff": True}),
    "grey": (in_bits(12)[..., 1], {"photometric": "minisblack"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_same_pixels_as_a_slide_and_as_an_upload(tmp_path: Path, kind: str) -> None:
    """All of them, and any part of them: the depth is that of the whole image."""
    pixels, options = KINDS[kind]
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, **{**TILED, **options})
    assert openslide.OpenSlide.detect_format(path) == "generic-tiff"
    uploaded = decode_image(path.read_bytes(), max_px=10**6).pixels

    assert uploaded.max() > 250
    assert np.array_equal(everything(Slide.open(path)), uploaded)
    assert np.array_equal(Slide.open(path).read_level(0, Box(100, 120, 90, 33)), uploaded[120:153, 100:190])


def test_smaller_levels_are_as_bright_as_level_0(tmp_path: Path) -> None:
    """One factor for the slide, measured on level 0."""
    path, pixels = tmp_path / "slide.tif", in_bits(12)
    with tifffile.TiffWriter(path) as out:
        out.write(pixels, **TILED)
        out.write(pixels[::2, ::2] // 4, subfiletype=1, **TILED)
    slide = Slide.open(path)

    assert slide.level_downsamples == (1.0, 2.0)
    expected = np.rint((pixels[::2, ::2] // 4) * (255 / 4095))
    assert np.array_equal(everything(slide, 1), expected)


class Counted:
    """Bytes that count how often they are read."""

    def __init__(self, data: bytes) -> None:
        self._bytes = Bytes(data)
        self.size = len(data)
        self.reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return self._bytes.read(offset, length)


def test_the_depth_is_measured_once_for_all_handles(tmp_path: Path) -> None:
    """A second handle on the file reads the tile it shows and no other."""
    path, known = tmp_path / "slide.tif", KnownNarrowing()
    tifffile.imwrite(path, in_bits(12), **TILED)
    for tiles in (12 + 1, 1):
        source = Counted(path.read_bytes())
        slide = DeepTiff(source, [first_directory(source)], known)
        source.reads = 0
        slide.read(0, Box(0, 0, 10, 10))
        assert source.reads == tiles


def test_a_damaged_tile_fails_the_reads_that_touch_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And no others; nothing is printed."""
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, in_bits(12), **TILED)
    whole = everything(Slide.open(path))
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset + length // 2 : offset + length] = bytes(length - length // 2)
    path.write_bytes(data)

    with pytest.raises(UnreadableSlideError, match=r"16-bit tile at pixel \(128, 128\)"):
        everything(Slide.open(path))
    assert np.array_equal(Slide.open(path).read_level(0, Box(0, 0, 420, 128)), whole[:128])
    assert capfd.readouterr() == ("", "")


def test_tiles_without_bytes_are_white_and_said_to_be_unstored(tmp_path: Path) -> None:
    """As in slides of 8 bits."""
    path = tmp_path / "slide.tif"
    write_unwritten(path, in_bits(12), tile_px=128, unwritten=4)
    slide = Slide.open(path)

    assert (slide.read_level(0, Box(0, 256, 420, 44)) == 255).all()
    assert not (slide.read_level(0, Box(0, 0, 420, 256)) == 255).all(axis=2).all()
    assert slide.unstored_share(0, Box(0, 0, 420, 300)) == pytest.approx(44 / 300)


def test_planes_of_16_bits_are_refused_as_they_are_of_uploads(tmp_path: Path) -> None:
    """With the sentence that says what to save."""
    path = tmp_path / "slide.tif"
    planes = np.moveaxis(in_bits(12), 2, 0)
    tifffile.imwrite(path, np.ascontiguousarray(planes), **{**TILED, "planarconfig": "separate"})

    with pytest.raises(UnreadableSlideError, match="interleaved RGB"):
        everything(Slide.open(path))
