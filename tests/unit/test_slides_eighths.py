"""Coarse levels of slides that store none: at an eighth from JPEG tiles, and stand-ins until they are made."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from slidecascade.geometry import Box, Size
from slidecascade.slides import deepzoom, glimpse
from slidecascade.slides.deepzoom import Address, DeepZoom, level_size, max_level
from slidecascade.slides.slide import Slide
from slidecascade_render.slides import write_pyramid

SIZE = Size(3000, 2100)
LOW = 8
"""The greatest low level of a slide of `SIZE`: level 0 at an eighth or less."""


def picture(*, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
    """Stripes with a colour that tells the place: red grows to the right, green downwards."""
    xs, ys = np.meshgrid(x_px + np.arange(width_px), y_px + np.arange(height_px))
    stripes = 60 * ((xs // 40 + ys // 40) % 2)
    return np.dstack([xs * 190 // SIZE.width + stripes, ys * 190 // SIZE.height + stripes, stripes]).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("eighths") / "slide.tif"
    write_pyramid(made, picture, SIZE.width, SIZE.height, mpp=0.25, levels=1)
    return made


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Slide]]:
    slides: list[Slide] = []

    def open_slide(file: Path) -> Slide:
        slides.append(Slide.open(file))
        return slides[-1]

    yield open_slide
    for slide in slides:
        slide.close()


def decoded(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)), np.int64)


def test_an_eighth_shows_the_mean_of_each_block_of_all_pixels(path: Path, opened: Callable[[Path], Slide]) -> None:
    slide = opened(path)
    eighth = slide.read_eighth()
    assert eighth is not None
    assert eighth.shape == (263, 375, 3)
    exact = slide.read_level(0, Box(0, 0, 3000, 2096))
    means = cv2.resize(exact, (375, 262), interpolation=cv2.INTER_AREA)
    assert np.abs(means.astype(int) - eighth[:262]).max() <= 4


def test_tiles_whose_colours_openslide_reads_otherwise_are_not_used(
    path: Path, tmp_path: Path, opened: Callable[[Path], Slide], monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = opened(path)
    exact = slide.read_level
    monkeypatch.setattr(slide, "read_level", lambda level, box: exact(level, box)[..., ::-1])
    assert slide.read_eighth() is None
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 4000] = bytes(4000)
    (tmp_path / "damaged.tif").write_bytes(data)
    assert opened(tmp_path / "damaged.tif").read_eighth() is None


def test_coarse_levels_are_made_without_reading_all_pixels(
    path: Path, opened: Callable[[Path], Slide], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("all pixels are read")

    monkeypatch.setattr(deepzoom, "_pixels", fail)
    tile = decoded(DeepZoom().tile(opened(path), Address(LOW, 0, 0)))
    expected = picture(x_px=0, y_px=0, width_px=SIZE.width, height_px=SIZE.height)
    size = level_size(SIZE, LOW)
    means = cv2.resize(expected, (size.width, size.height), interpolation=cv2.INTER_AREA)
    assert np.abs(means.astype(int) - tile)[:-1, :-1].mean() < 8


def test_a_stand_in_shows_the_place_until_the_levels_are_made(
    path: Path, opened: Callable[[Path], Slide], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without this limit it would be as fine as can be read in time; with it, the coarsest one.
    monkeypatch.setattr(glimpse, "_BUDGET_S", -1)
    slide, zoom = opened(path), DeepZoom()
    shown = decoded(zoom.glimpse(slide, Address(LOW, 0, 0)))
    size = level_size(SIZE, LOW)
    assert shown.shape == (size.height, size.width, 3)
    assert shown[5, -5, 0] > shown[5, 5, 0] + 60
    assert shown[-5, 5, 1] > shown[5, 5, 1] + 60
    small = decoded(zoom.glimpse_thumbnail(slide, 100))
    assert small.shape == (70, 100, 3)
    # Fine levels need none, and there is none outside of the pyramid.
    assert zoom.glimpse(slide, Address(max_level(SIZE), 0, 0)) is None
    assert zoom.glimpse(slide, Address(LOW, 9, 0)) is None
    zoom.make_levels(slide)
    assert zoom.glimpse(slide, Address(LOW, 0, 0)) is None
    assert zoom.glimpse_thumbnail(slide, 100) is None
