"""What the page is measured on: a slide of one level, and a job of a million cells."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
from benchmarks.jobs.cells import SIDE_PX, filled
from benchmarks.jobs.slides import BLOCK_PX, MPP, write

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.jobs import frame
from slidecascade.jobs.collect import CellsSurvey, Collection
from slidecascade.jobs.database import open_database
from slidecascade.jobs.layers import write_layers
from slidecascade.jobs.records import Records
from slidecascade.settings import Settings
from slidecascade.staging import write_file
from slidecascade.timing import Silent
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_render.tiff import TiledTiff

ONE_LEVEL: Final = "one-level.tif"
ONE_LEVEL_PX: Final = 20_000
GLASS: Final = "glass.tif"
TILE_PX: Final = 256
_QUALITY: Final = 85


def write_one_level(path: Path) -> None:
    """A slide of 0.4 Gpx without smaller levels, in JPEG tiles of 256 px; one rendered block again and again."""
    block = render(TissueOptions(seed=1, mpp=MPP), width_px=BLOCK_PX, height_px=BLOCK_PX).image
    side = BLOCK_PX // TILE_PX
    corners = [(row * TILE_PX, column * TILE_PX) for row in range(side) for column in range(side)]
    encoded = [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(block[top : top + TILE_PX, left : left + TILE_PX]),
            quality=_QUALITY,
            colorspace="RGB",
            colorsubsampling="444",
        )
        for top, left in corners
    ]
    count = -(-ONE_LEVEL_PX // TILE_PX)
    tiles = (encoded[row % side * side + column % side] for row in range(count) for column in range(count))
    with TiledTiff(path) as tiff:
        tiff.add_level(tiles, (ONE_LEVEL_PX, ONE_LEVEL_PX), tile_px=TILE_PX, mpp=MPP, reduced=False)


def write_glass(path: Path) -> None:
    """A slide of 3.8 Gpx of glass with all its coarse levels."""
    blank = np.full((TILE_PX, TILE_PX, 3), 240, np.uint8)
    tile = simplejpeg.encode_jpeg(blank, quality=_QUALITY, colorspace="RGB", colorsubsampling="444")
    with TiledTiff(path) as tiff:
        for power in range((SIDE_PX // TILE_PX).bit_length() - 1):
            side_px = SIDE_PX >> power
            count = (-(-side_px // TILE_PX)) ** 2
            size_px = (side_px, side_px)
            tiff.add_level(repeat(tile, count), size_px, tile_px=TILE_PX, mpp=MPP * 2**power, reduced=power > 0)


def write_million(slides: Path, jobs: Path) -> str:
    """A slide of glass, and a finished job with a million cells on it; returns the job's id."""
    write(slides / "block.tif", BLOCK_PX)
    write_glass(slides / GLASS)
    analyser = Analyser(Settings(slide_roots=(slides,)), observer=Silent())
    found = analyser.analyse(
        wire.RegionRequest(pipeline="nash", slide="block.tif", mpp=MPP), None, Control()
    ).cells
    request = wire.JobRequest(pipeline="nash", slide=GLASS, mpp=MPP)
    task = analyser.prepare(request.region_request(), None, Control(), is_bounded=False)
    jobs.mkdir()
    engine = open_database(None, jobs)
    records = Records(engine)
    record, _ = records.add(request, request_id="benchmark", key=None, most_active=1, retry_after_s=1)
    folder = jobs / record.id
    survey = CellsSurvey(analyser, task, folder / "parts")
    for result, analysis in filled(survey, found):
        survey.parts.write(result, analysis, {})
    reports = [report for _, report in survey.reports() if report is not None]
    collection = Collection(survey, reports, seconds=1.0)
    with task.open_source() as source:
        write_layers(folder / "layers", collection, source.size_l0)
    collection.write(folder / "results", None, outputs=("parquet",))
    write_file(folder / frame.NAME, frame.Frame.of(collection.analysis).encode())
    done = dict.fromkeys(range(len(reports)), collection.cells // len(reports))
    records.start(record.id, 1, fields_total=len(reports), done=done)
    records.end(record.id, 1, "succeeded")
    engine.dispose()
    analyser.close()
    return record.id
