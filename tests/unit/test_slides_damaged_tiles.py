"""Slides of which a stored JPEG tile is cut and closed with an end marker: no grey is read in its place."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from cut_jpeg import END, cut_parts, tiled_jpeg_tiff
from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides.knownfiles import KnownFiles
from slidecascade.slides.slide import Slide
from slidecascade.slides.store import SlideStore
from slidecascade.slides.storedparts import StoredLevel, StoredParts

SIDE_PX, TILE_PX = 500, 128
ALL = Box(0, 0, SIDE_PX, SIDE_PX)
CUT = 5
"""Second row, second column of the 4 x 4 tiles."""

COLOUR = cv2.GaussianBlur(np.random.default_rng(8).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8), (0, 0), 2)


def _slides() -> dict[str, bytes]:
    return {
        "one channel": tiled_jpeg_tiff(COLOUR[..., 0], TILE_PX),
        "a plane for each channel": tiled_jpeg_tiff(COLOUR, TILE_PX, planar=True),
        "YCbCr": tiled_jpeg_tiff(COLOUR, TILE_PX),
        "RGB": tiled_jpeg_tiff(COLOUR, TILE_PX, keep_rgb=True),
    }


@pytest.mark.parametrize("kind", _slides())
def test_a_cut_tile_fails_the_reads_that_touch_it(tmp_path: Path, kind: str) -> None:
    """Whoever decodes the tile, OpenSlide or libtiff for it, the read fails; other pixels are as they were."""
    (tmp_path / "whole.tif").write_bytes(_slides()[kind])
    (tmp_path / "cut.tif").write_bytes(cut_parts(_slides()[kind], CUT))
    whole = Slide.open(tmp_path / "whole.tif").read_level(0, ALL)

    with pytest.raises(UnreadableSlideError):
        Slide.open(tmp_path / "cut.tif").read_level(0, ALL)
    for box in (Box(0, 0, SIDE_PX, TILE_PX), Box(2 * TILE_PX, 0, SIDE_PX - 2 * TILE_PX, SIDE_PX)):
        read = Slide.open(tmp_path / "cut.tif").read_level(0, box)
        assert np.array_equal(read, whole[box.y : box.bottom, box.x : box.right])


@pytest.mark.parametrize("plane", range(3))
def test_the_place_of_a_cut_tile_is_named(tmp_path: Path, plane: int) -> None:
    """In any of its planes; the handle still serves reads that do not touch the tile."""
    path = tmp_path / "cut.tif"
    path.write_bytes(cut_parts(_slides()["a plane for each channel"], plane * 16 + CUT))
    slide = Slide.open(path)

    with pytest.raises(UnreadableSlideError, match=r"pixel \(128, 128\).* tile of 128 x 128 .*premature end"):
        slide.read_level(0, Box(255, 255, 1, 1))
    assert not slide.failed
    assert slide.read_level(0, Box(256, 255, 1, 1)).shape == (1, 1, 3)


def test_a_replaced_file_is_looked_at_anew(tmp_path: Path) -> None:
    """Verdicts are those of a state of the file: a good copy put in its place is read."""
    path = tmp_path / "slide.tif"
    path.write_bytes(cut_parts(_slides()["one channel"], CUT))
    store = SlideStore([tmp_path], handles=2, max_listing=10)
    with store.open("slide.tif") as slide, pytest.raises(UnreadableSlideError):
        slide.read_level(0, ALL)

    path.write_bytes(_slides()["one channel"])
    with store.open("slide.tif") as slide:
        assert slide.read_level(0, ALL).shape == (SIDE_PX, SIDE_PX, 3)
    store.close()


def test_each_tile_is_followed_once_for_all_who_open_the_file() -> None:
    """A second handle takes over the verdicts of the first, the damage's name included."""
    followed: list[int] = []

    def damage(index: int) -> str | None:
        followed.append(index)
        return "premature end" if index == 3 else None

    known, level = KnownFiles(), StoredLevel.of_size(Size(100, 100), Size(50, 50), damage)
    for _ in range(2):
        parts = StoredParts((level,), known.of((1, 2, 3)).verdicts)
        assert parts.first_damaged(0, Box(0, 0, 50, 100)) is None
        damaged = parts.first_damaged(0, Box(40, 60, 20, 10))
        assert damaged is not None
        assert (damaged.box, damaged.what) == (Box(50, 50, 50, 50), "premature end")
    assert sorted(followed) == [0, 2, 3]
    assert StoredParts((level,), known.of((1, 2, 4)).verdicts).first_damaged(0, Box(0, 0, 10, 10)) is None
    assert sorted(followed) == [0, 0, 2, 3]


def test_no_real_slide_is_taken_for_damaged(shared_data: Path) -> None:
    """All levels of all slides at hand are read in full, as OpenSlide itself reads them."""
    folder = shared_data / "slides"
    paths = [path for path in sorted(folder.iterdir()) if openslide.OpenSlide.detect_format(path)]
    assert len(paths) >= 9
    for path in paths:
        slide, bare = Slide.open(path), openslide.OpenSlide(path)
        for level, size in enumerate(slide.level_sizes):
            pixels = slide.read_level(level, Box(0, 0, size.width, size.height))
            assert pixels.shape == (size.height, size.width, 3)
        assert slide.level_sizes[0] == Size(*bare.dimensions)
        slide.close()
        bare.close()


def _cut_at(data: bytes, start: int, length: int) -> bytes:
    half = start + length // 2
    return data[:half] + END + bytes(start + length - half - 2) + data[start + length :]


def _fragments(data: bytes) -> list[tuple[int, int]]:
    """(start, length) of the frames of an encapsulated DICOM file, its offset table left out."""
    at = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    found = []
    while data[at : at + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((at + 8, length))
        at += 8 + length
    return found[1:]


@pytest.mark.parametrize("name", ["camelyon_lowres.dcm", "dicom_jpeg.dcm", "camelyon_jpeg2000.dcm"])
def test_a_cut_frame_of_a_dicom_slide_is_refused(shared_data: Path, tmp_path: Path, name: str) -> None:
    """JPEG and JPEG 2000 in DICOM: OpenSlide reports what is missing."""
    data = (shared_data / "slides" / name).read_bytes()
    frames = _fragments(data)
    (tmp_path / name).write_bytes(_cut_at(data, *frames[len(frames) // 2]))
    slide = Slide.open(tmp_path / name)

    with pytest.raises(UnreadableSlideError):
        slide.read_level(0, Box(0, 0, slide.size_l0.width, slide.size_l0.height))


def test_a_cut_tile_of_an_aperio_slide_is_refused(shared_data: Path, tmp_path: Path) -> None:
    """A scanner's JPEG tiles, which share their tables."""
    data = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(cut_parts(data, 50))

    with pytest.raises(UnreadableSlideError):
        Slide.open(tmp_path / "cut.svs").read_level(0, Box(0, 1200, 240, 240))


def test_a_shortened_jpeg_2000_tile_of_an_aperio_slide_is_refused(shared_data: Path, tmp_path: Path) -> None:
    """OpenJPEG compares the tile part's stated length with the data there is."""
    data = (shared_data / "slides" / "tcga-no-mpp.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(cut_parts(data, 130))

    with pytest.raises(UnreadableSlideError):
        Slide.open(tmp_path / "cut.svs").read_level(0, Box(1024, 1792, 256, 256))


def test_a_jpeg_2000_tile_that_is_cut_in_place_is_refused(shared_data: Path, tmp_path: Path) -> None:
    """OpenJPEG would decode what is there: the tile part is as long as it says, but ends in its middle."""
    data = (shared_data / "slides" / "tcga-no-mpp.svs").read_bytes()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        place = page.dataoffsets[130], page.databytecounts[130]
    (tmp_path / "cut.svs").write_bytes(_cut_at(data, *place))
    slide = Slide.open(tmp_path / "cut.svs")

    with pytest.raises(UnreadableSlideError, match=r"pixel \(1024, 1792\).*marker FFD9 inside JPEG 2000 data"):
        slide.read_level(0, Box(1024, 1792, 256, 256))
    assert slide.read_level(0, Box(768, 1792, 256, 256)).shape == (256, 256, 3)


def test_a_cut_row_of_a_hamamatsu_slide_is_refused(shared_data: Path, tmp_path: Path) -> None:
    """NDPI: one JPEG stream a level, in which OpenSlide reads from restart marker to restart marker."""
    data = (shared_data / "slides" / "fluo-dapi.ndpi").read_bytes()
    third, fourth = (data.index(marker, 500_000) for marker in (b"\xff\xd3", b"\xff\xd4"))
    start = min(third, fourth) + 2
    (tmp_path / "cut.ndpi").write_bytes(_cut_at(data, start, 1000))

    with pytest.raises(UnreadableSlideError):
        Slide.open(tmp_path / "cut.ndpi").read_level(0, Box(0, 0, 3968, 4864))
