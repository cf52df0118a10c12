"""Rendered whole slides: what OpenSlide reads is what was rendered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest

from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_render.slides import pyramid
from slidecascade_render.tiff import TiledTiff

OPTIONS = TissueOptions(seed=5, mpp=0.4)
SIZE = (1500, 1130)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openslide.OpenSlide]:
    path = tmp_path_factory.mktemp("slides") / "rendered.tiff"
    write_slide(path, OPTIONS, *SIZE, tile_px=256, levels=3)
    assert [entry.name for entry in path.parent.iterdir()] == ["rendered.tiff"]
    with openslide.OpenSlide(path) as opened:
        yield opened


def test_openslide_finds_every_level(slide: openslide.OpenSlide) -> None:
    """Sizes and downsamples of the levels are those of a fourfold pyramid."""
    assert slide.dimensions == SIZE
    assert slide.level_dimensions == ((1500, 1130), (375, 283), (94, 71))
    assert slide.level_downsamples == pytest.approx((1.0, 4.0, 16.0), rel=0.01)


def test_openslide_reports_the_pixel_size(slide: openslide.OpenSlide) -> None:
    """The pixel size is known, so that the service need not guess."""
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.4, rel=1e-4)
    assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.4, rel=1e-4)


@pytest.mark.parametrize("corner", [(0, 0), (700, 900), (1180, 830)])
def test_pixels_are_those_of_the_renderer(slide: openslide.OpenSlide, corner: tuple[int, int]) -> None:
    """A region of the slide is the rendered window, but for the compression of its tiles."""
    expected = render(OPTIONS, x_px=corner[0], y_px=corner[1], width_px=300, height_px=230).image
    found = np.asarray(slide.read_region(corner, 0, (300, 230)))[..., :3]
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() < 3
    assert difference.max() < 40


def test_a_smaller_level_is_the_average_of_the_one_above(slide: openslide.OpenSlide) -> None:
    """Level 1 shows the means of 4 x 4 pixels of level 0."""
    above = np.asarray(slide.read_region((0, 0), 0, (800, 640)))[..., :3].astype(float)
    means = above.reshape(160, 4, 200, 4, 3).mean(axis=(1, 3))
    found = np.asarray(slide.read_region((0, 0), 1, (200, 160)))[..., :3]
    assert abs(np.mean(found - means)) < 0.5
    assert np.abs(found - means).mean() < 6


def test_a_pyramid_ends_at_a_thumbnail() -> None:
    """Without a wish, levels are added until the last fits into 512 px."""
    assert pyramid(20_000, 9_000) == [(20_000, 9_000), (5_000, 2_250), (1_250, 563), (313, 141)]
    assert pyramid(300, 200) == [(300, 200)]
    assert pyramid(300, 200, levels=2) == [(300, 200), (75, 50)]


@pytest.mark.parametrize("wrong", [{"tile_px": 100}, {"levels": 0}])
def test_a_slide_that_cannot_be_written_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    """Tiles must suit JPEG, and a slide has a level; no file remains after an error."""
    with pytest.raises(ValueError, match="multiple of 16"):
        write_slide(tmp_path / "no.tiff", OPTIONS, 100, 100, **wrong)
    assert not list(tmp_path.iterdir())


def test_a_level_with_missing_tiles_is_refused(tmp_path: Path) -> None:
    """A level is written only from as many tiles as cover it."""
    with TiledTiff(tmp_path / "short.tiff") as tiff, pytest.raises(ValueError, match="has 4 tiles, got 1"):
        tiff.add_level([b""], (500, 500), tile_px=256, mpp=0.25, reduced=False)
