"""A slide with a damaged spot: the tiles with that spot are reported, all others are analysed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cut_jpeg import cut_parts, tiled_jpeg_tiff
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.plan import UNREAD_GREY
from slidecascade.cancellation import Control
from slidecascade.cells.result import cells_of
from slidecascade.errors import TilesFailedError, UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.settings import Settings
from slidecascade.slides.slide import Slide
from slidecascade.slides.tiling import cover
from slidecascade.timing import Silent
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render
from toy_pipeline import HALO_PX, ToyPipeline

SIDE_PX = 1024
TILE_PX = 256
"""Side of the TIFF's own tiles, which is also that of the tiles analysed."""


def _unreadable(path: Path) -> set[tuple[int, int]]:
    """Corners of the TIFF tiles that cannot be read, each tried with a handle of its own."""
    found = set()
    for y in range(0, SIDE_PX, TILE_PX):
        for x in range(0, SIDE_PX, TILE_PX):
            slide = Slide.open(path)
            try:
                slide.read_level(0, Box(x, y, TILE_PX, TILE_PX))
            except UnreadableSlideError:
                found.add((x, y))
            finally:
                slide.close()
    return found


def _write_zeroed(path: Path) -> None:
    """One JPEG tile overwritten by zeros."""
    write_slide(path, TissueOptions(seed=4, mpp=0.5), SIDE_PX, SIDE_PX, tile_px=TILE_PX, levels=1)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"]
    middle = starts[5]
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)


def _write_cut(path: Path) -> None:
    """One JPEG tile cut in half and closed with an end marker."""
    write_slide(path, TissueOptions(seed=4, mpp=0.5), SIDE_PX, SIDE_PX, tile_px=TILE_PX, levels=1)
    path.write_bytes(cut_parts(path.read_bytes(), 5))


def _write_grey_cut(path: Path) -> None:
    """The same of one channel, whose tiles OpenSlide fills with grey."""
    pixels = render(TissueOptions(seed=4, mpp=0.5), width_px=SIDE_PX, height_px=SIDE_PX).image
    path.write_bytes(cut_parts(tiled_jpeg_tiff(pixels[..., 1], TILE_PX), 5))


@pytest.fixture(scope="module", params=[_write_zeroed, _write_cut, _write_grey_cut])
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered slide with a damaged tile."""
    path = tmp_path_factory.mktemp("damaged") / "slide.tiff"
    request.param(path)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_only_the_damaged_tiles_fail(damaged: Path, tmp_path: Path, threads: int) -> None:
    """OpenSlide's errors stick to a handle; the neighbours' retries do not share it."""
    broken = _unreadable(damaged)
    assert len(broken) == 1
    toy = ToyPipeline(tmp_path)
    settings = Settings(
        models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir, slide_roots=(damaged.parent,), threads=threads
    )
    analyser = Analyser(settings, observer=Silent())
    fields = {"pipeline": "toy", "slide": damaged.name, "tile_px": TILE_PX, "mpp": 0.5}
    try:
        report = analyser.analyse(wire.parse_request(fields | {"allow_partial": True}), None, Control())
        partial = report.analysis
        picture, downsample = report.overview(SIDE_PX)
        with pytest.raises(TilesFailedError) as refused:
            analyser.analyse(wire.parse_request(fields), None, Control())
    finally:
        analyser.close()

    # Tiles read a halo, so those around the spot fail with it; those that do not touch it must not.
    ((x, y),) = broken
    whole = Box(0, 0, SIDE_PX, SIDE_PX)
    tiles = cover(whole, whole.size, tile_px=Size(TILE_PX, TILE_PX), halo_px=HALO_PX, multiple_of=8)
    touching = {
        (tile.core.x, tile.core.y)
        for tile in tiles
        if tile.read.x < x + TILE_PX and x < tile.read.right and tile.read.y < y + TILE_PX and y < tile.read.bottom
    }
    failed = {(tile.core_l0.x, tile.core_l0.y) for tile in partial.tiles.failed}
    assert failed == touching
    assert len(failed) < len(tiles)
    assert {place[:2] for place, _ in refused.value.tiles} == failed
    assert len(cells_of(partial).instances) > 0
    assert picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert downsample == 1
    assert (picture[y : y + TILE_PX, x : x + TILE_PX] == UNREAD_GREY).all()
    assert (picture != UNREAD_GREY).any(axis=2).mean() > 0.9
