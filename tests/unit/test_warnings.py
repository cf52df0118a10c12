"""Warnings of results, and where they are reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from made_analysis import make_analysis
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box
from slidecascade.metrics import Metrics
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.cells.summary import summarise
from slidecascade.settings import Settings
from slidecascade.slides.slide import Slide
from slidecascade.warning import AnswerWarning
from toy_pipeline import ToyPipeline, blobs
from unwritten_slide import write_unwritten

SIDE_PX, TILE_PX = 512, 128
TILES = (SIDE_PX // TILE_PX) ** 2


def write_slide(path: Path, *, unwritten: int) -> None:
    """A slide of cells; of its last `unwritten` tiles there are no bytes."""
    write_unwritten(path, blobs(3, SIDE_PX, SIDE_PX, 60), tile_px=TILE_PX, unwritten=unwritten)


def analysed(folder: Path, *, unwritten: int, metrics: Metrics | None = None, **asked: object) -> Analysis:
    toy = ToyPipeline(folder)
    (folder / "slides").mkdir()
    write_slide(folder / "slides" / "slide.tif", unwritten=unwritten)
    settings = Settings(
        models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir, slide_roots=(folder / "slides",), threads=1
    )
    analyser = Analyser(settings, observer=metrics or Metrics())
    fields = {"pipeline": "toy", "slide": "slide.tif", "mpp": 0.5, "tile_px": 128, **asked}
    try:
        return analyser.analyse(wire.parse_request(fields), None, Control()).cells
    finally:
        analyser.close()


@pytest.mark.parametrize(("unwritten", "share"), [(16, "100%"), (8, "50%"), (1, "6%")])
def test_a_region_without_stored_pixels_says_so(tmp_path: Path, unwritten: int, share: str) -> None:
    """Once for the region, with its part of it; metrics count it by code."""
    metrics = Metrics()
    analysis = analysed(tmp_path, unwritten=unwritten, metrics=metrics)

    (warning,) = analysis.warnings
    assert warning.code == "no-stored-pixels"
    assert warning.message.startswith(f"{share} of the region has no stored pixels")
    assert (len(analysis.instances) == 0) == (unwritten == TILES)
    assert b'slidecascade_warnings_total{code="no-stored-pixels"} 1.0' in metrics.expose()


def test_a_whole_slide_says_nothing(tmp_path: Path) -> None:
    """Nor does the part of a slide that was written."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    half.mkdir()
    region = {"x": 0, "y": 0, "width": SIDE_PX, "height": SIDE_PX // 2}

    assert analysed(whole, unwritten=0).warnings == ()
    assert analysed(half, unwritten=8, region=region).warnings == ()


def test_white_glass_is_stored(tmp_path: Path) -> None:
    """Pure white that a scanner wrote is no missing pixel; that of an unwritten tile is."""
    pixels = np.full((256, 256, 3), 255, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(128, 128), photometric="rgb", compression="zlib")
    write_slide(tmp_path / "b.tif", unwritten=4)

    assert Slide.open(tmp_path / "a.tif").unstored_share(0, Box(0, 0, 256, 256)) == 0
    assert Slide.open(tmp_path / "b.tif").unstored_share(0, Box(0, 192, 512, 320)) == 128 / 320


def test_summary_and_geojson_carry_warnings() -> None:
    """As code and message; an answer without any has an empty list."""
    analysis = make_analysis(3, warnings=(AnswerWarning("no-stored-pixels", "Half of it."),))
    reported = [{"code": "no-stored-pixels", "message": "Half of it."}]

    assert summarise(analysis).model_dump(mode="json")["warnings"] == reported
    assert json.loads(b"".join(geojson.encode(analysis)))["slidecascade"]["warnings"] == reported
    assert json.loads(b"".join(geojson.encode(make_analysis(3))))["slidecascade"]["warnings"] == []
