"""Tiles and thumbnails of slides."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidecascade.geometry import Size
from slidecascade.slides import deepzoom
from slidecascade.slides.deepzoom import TILE_PX, Address, DeepZoom, level_size, max_level
from slidecascade.slides.slide import Slide

SIZE = Size(2100, 1300)
TOLERANCE = 12
"""Levels that JPEG may change in a smooth picture."""


def picture(size: Size) -> np.ndarray:
    """A smooth picture whose colours tell the place: red grows to the right, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, size.width), np.linspace(0, 255, size.height))
    return np.dstack([across, down, np.full_like(across, 128)]).astype(np.uint8)


@pytest.fixture(scope="module", params=["one level", "a pyramid"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path: Path = tmp_path_factory.mktemp("deepzoom") / "slide.tiff"
    whole = picture(SIZE)
    levels = [whole] if request.param == "one level" else [whole, whole[::4, ::4], whole[::16, ::16]]
    with tifffile.TiffWriter(path) as writer:
        for place, level in enumerate(levels):
            writer.write(level, tile=(256, 256), photometric="rgb", subfiletype=1 if place else 0)
    opened = Slide.open(path)
    yield opened
    opened.close()


def decoded(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)), np.int64)


def test_every_level_put_together_shows_the_whole_slide_at_its_place(slide: Slide) -> None:
    zoom = DeepZoom()
    for level in range(max_level(SIZE) + 1):
        size = level_size(SIZE, level)
        whole = np.zeros((size.height, size.width, 3), np.int64)
        for row in range(-(-size.height // TILE_PX)):
            for column in range(-(-size.width // TILE_PX)):
                tile = decoded(zoom.tile(slide, Address(level, column, row)))
                top, left = row * TILE_PX, column * TILE_PX
                whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        if min(size.width, size.height) < 8:
            continue  # a pixel stands for too much to be compared
        expected = np.asarray(
            Image.fromarray(picture(SIZE)).resize((size.width, size.height), Image.Resampling.BOX)
        )
        assert np.abs(whole - expected)[2:-2, 2:-2].max() <= TOLERANCE + 2 * 255 // size.height


@pytest.mark.parametrize(
    "address", [Address(13, 0, 0), Address(-1, 0, 0), Address(12, 9, 0), Address(12, 0, 6), Address(12, -1, 0)]
)
def test_there_is_no_tile_outside_the_pyramid(slide: Slide, address: Address) -> None:
    assert DeepZoom().tile(slide, address) is None


def test_a_tile_is_made_once(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    zoom = DeepZoom()
    first = [zoom.tile(slide, Address(level, 0, 0)) for level in range(max_level(SIZE) + 1)]

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(deepzoom, "_pixels", fail)
    assert [zoom.tile(slide, Address(level, 0, 0)) for level in range(max_level(SIZE) + 1)] == first


@pytest.mark.parametrize("max_px", [16, 256, 1000])
def test_a_thumbnail_shows_the_whole_slide_with_its_proportions(slide: Slide, max_px: int) -> None:
    shown = decoded(DeepZoom().thumbnail(slide, max_px))
    assert shown.shape[1] == max_px
    assert abs(shown.shape[0] - max_px * SIZE.height / SIZE.width) <= 1
    assert shown[0, 0, 0] < 40
    assert shown[-1, -1, 0] > 200
    assert shown[0, 0, 1] < 40
    assert shown[-1, -1, 1] > 200


def test_a_small_slide_is_not_enlarged(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tiff", picture(Size(100, 60)), tile=(64, 64), photometric="rgb")
    slide = Slide.open(tmp_path / "small.tiff")
    assert decoded(DeepZoom().thumbnail(slide, 512)).shape == (60, 100, 3)
    slide.close()


def test_kept_tiles_are_bounded(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepzoom, "_KEPT_TILES_BYTES", 10_000)
    zoom = DeepZoom()
    for column in range(8):
        zoom.tile(slide, Address(max_level(SIZE), column, 0))
    assert sum(map(len, zoom._tiles.values())) <= 10_000
