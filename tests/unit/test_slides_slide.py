"""Whole-slide images through OpenSlide: what they state, what is read, what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides.slide import Slide, TileCache, can_open


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "slides"


def write_tiff(path: Path, *, mpp_x: float, mpp_y: float) -> Path:
    """A tiled TIFF OpenSlide opens, with a pixel size in its resolution tags."""
    pixels = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    resolution = (1e4 / mpp_x, 1e4 / mpp_y)
    tifffile.imwrite(
        path, pixels, tile=(32, 32), photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER"
    )
    return path


def test_a_slide_states_its_size_and_resolution(folder: Path) -> None:
    """An Aperio slide states size, mpp, objective and vendor; the mpp is the mean of both axes."""
    info = Slide.open(folder / "CMU-1-Small-Region.svs").info

    assert (info.size_l0, info.mpp, info.objective_power) == (Size(2220, 2967), 0.499, 20.0)
    assert (info.vendor, info.level_downsamples, info.level_sizes) == ("aperio", (1.0,), (Size(2220, 2967),))


@pytest.mark.parametrize(
    ("name", "size", "mpp"),
    [
        ("dicom_jpeg.dcm", Size(957, 715), 16.783),
        ("camelyon_lowres.dcm", Size(1152, 700), 28.9685),
        ("small.svs", Size(16, 16), 0.499),
        ("boxes_0.dcm", Size(16, 16), 0.499),
    ],
)
def test_dicom_and_small_slides_open(folder: Path, name: str, size: Size, mpp: float) -> None:
    """Slides of other kinds open and read to their last pixel."""
    slide = Slide.open(folder / name)

    assert slide.size_l0 == size
    assert slide.mpp == pytest.approx(mpp)
    assert slide.read_level(0, Box(size.width - 5, size.height - 3, 5, 3)).shape == (3, 5, 3)


def test_a_slide_without_resolution_has_none(folder: Path) -> None:
    """Nothing is guessed where the slide is silent, nor from the 72 dpi a plain TIFF carries."""
    assert Slide.open(folder / "tcga-no-mpp.svs").mpp is None
    assert openslide.OpenSlide(folder / "boxes.tiff").properties["openslide.mpp-x"].startswith("352.7")
    assert Slide.open(folder / "boxes.tiff").mpp is None


@pytest.mark.parametrize(("mpp_x", "mpp_y", "mpp"), [(0.5, 0.5, 0.5), (0.5, 0.51, 0.505), (0.5, 0.55, None)])
def test_pixels_that_are_not_square_have_no_size(
    tmp_path: Path, mpp_x: float, mpp_y: float, mpp: float | None
) -> None:
    """A difference of at most 5 % is averaged; a larger one is for the user to settle."""
    slide = Slide.open(write_tiff(tmp_path / "a.tif", mpp_x=mpp_x, mpp_y=mpp_y))

    assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "boxes.tiff"])
def test_level_0_is_what_openslide_reads(folder: Path, name: str) -> None:
    """An opaque slide's level-0 pixels are OpenSlide's, untouched."""
    with openslide.OpenSlide(folder / name) as handle:
        expected = np.asarray(handle.read_region((31, 17), 0, (200, 150)))[..., :3]

    assert np.array_equal(Slide.open(folder / name).read_level(0, Box(31, 17, 200, 150)), expected)


@pytest.mark.parametrize(("name", "level"), [("tcga-no-mpp.svs", 1), ("boxes.tiff", 1), ("boxes.tiff", 2)])
def test_a_level_reads_the_same_from_every_box(folder: Path, name: str, level: int) -> None:
    """Where a level's downsample is 2.0005, OpenSlide alone gives each box its own interpolation; here not."""
    slide = Slide.open(folder / name)
    size = slide.level_sizes[level]
    part = Box(0, 0, min(700, size.width), min(600, size.height))
    whole = slide.read_level(level, part)

    @settings(max_examples=15, deadline=None)
    @given(
        st.integers(0, part.width - 1), st.integers(0, part.height - 1), st.integers(1, 300), st.integers(1, 300)
    )
    def check(x: int, y: int, width: int, height: int) -> None:
        box = Box(x, y, width, height).clipped(part)
        assert np.array_equal(slide.read_level(level, box), whole[box.y : box.bottom, box.x : box.right])

    check()


def test_threads_may_read_at_the_same_time(folder: Path) -> None:
    """Concurrent reads of one handle with a small shared cache give what one thread reads."""
    slide = Slide.open(folder / "CMU-1-Small-Region.svs", cache=TileCache(2**20))
    boxes = [Box(x, y, 300, 200) for x in range(0, 1900, 270) for y in range(0, 2000, 400)]
    expected = [slide.read_level(0, box) for box in boxes]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda box: slide.read_level(0, box), boxes))

    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", ["broken/unopenable.tiff", "broken/truncated.svs", "README"])
def test_what_cannot_be_opened_is_said_without_its_path(folder: Path, tmp_path: Path, name: str) -> None:
    """Unsupported, truncated and foreign files give one sentence that names no file."""
    path = folder / name
    if name == "README":
        path = tmp_path / "secret-name.svs"
        path.write_text("no slide")

    with pytest.raises(UnreadableSlideError, match="cannot be opened") as caught:
        Slide.open(path)
    assert path.name not in str(caught.value)
    assert str(path.parent) not in str(caught.value)


def test_a_slide_that_fails_on_reading_says_so(folder: Path) -> None:
    """The slide opens, the read fails by name, and the handle reports that it is unusable."""
    slide = Slide.open(folder / "broken" / "unreadable.svs")
    assert not slide.failed

    for _ in range(2):
        with pytest.raises(UnreadableSlideError, match="cannot be read"):
            slide.read_level(0, Box(0, 0, 16, 16))
    assert slide.failed
    assert slide.size_l0 == Size(16, 16)


def test_formats_are_recognised_by_content(folder: Path, tmp_path: Path) -> None:
    """Slides are distinguished from other files by their contents."""
    text = tmp_path / "a.svs"
    text.write_text("no slide")

    assert can_open(folder / "small.svs")
    assert can_open(folder / "dicom_jpeg.dcm")
    assert not can_open(text)
    assert not can_open(folder / "broken" / "truncated.svs")
