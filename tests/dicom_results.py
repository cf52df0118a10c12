"""Folders of results to export as DICOM, as `jobs fetch` leaves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from made_analysis import make_analysis
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box, Size
from slidecascade.outputs import heatmapfile
from slidecascade.outputs.areas import masktiff
from slidecascade.outputs.cells import geojson, geoparquet
from slidecascade.outputs.cells.heatmap import compute
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.summary import text

CELLS: Final = 60
REGION_L0: Final = Box(60, 36, 700, 560)
MASK_DOWNSAMPLE: Final = 2.0


def made_cells(path: Path) -> Analysis:
    """Cells of a region of a slide of 800 x 640 px, with their heatmaps; returns what the files are made of."""
    analysis = make_analysis(CELLS, region_l0=REGION_L0)
    tissue = analysis.tissue.mask.copy()
    tissue[:, -12:] = False  # heatmaps state nothing there
    analysis = replace(analysis, tissue=replace(analysis.tissue, mask=tissue))
    maps = tuple(compute(analysis, spec) for spec in analysis.heatmaps)
    path.joinpath("heatmaps").mkdir(parents=True)
    rows = geoparquet.table(analysis)
    path.joinpath("cells.parquet").write_bytes(b"".join(geoparquet.stream([rows], rows, provenance=b"{}")))
    path.joinpath("cells.geojson").write_bytes(b"".join(geojson.encode(analysis)))
    path.joinpath("summary.json").write_bytes(text(summarise(analysis, maps)))
    for item in maps:
        path.joinpath(heatmapfile.name_of(item.name)).write_bytes(
            heatmapfile.encode(item, REGION_L0, analysis.mpp)
        )
    return analysis


def made_areas(path: Path) -> NDArray[np.uint8]:
    """Areas of two classes at half the resolution, the first of them with a hole; returns the mask."""
    path.mkdir(parents=True)
    mask = np.zeros((REGION_L0.height // 2, REGION_L0.width // 2), np.uint8)
    mask[20:90, 30:300] = 1
    mask[40:50, 100:120] = 0
    mask[200:280, 10:60] = 2
    numbers = orjson.loads(text(summarise(make_analysis(5, region_l0=REGION_L0))))
    numbers |= {"kind": "areas", "pipeline": "glands", "counts": {"Gland": 1, "Fat & <skin>": 1, "None": 0}}
    numbers |= {"fractions": {}, "densities_per_mm2": {"Gland": 1.5}, "heatmaps": []}
    numbers["areas"] = {"Gland": {"count": 1, "area_mm2": 0.0188, "tissue_share": 0.1}}
    numbers["models"][0] |= {"downsample": MASK_DOWNSAMPLE}
    path.joinpath("summary.json").write_bytes(orjson.dumps(numbers))
    with path.joinpath("mask.tiff").open("wb") as file:
        masktiff.write(file, lambda top, bottom: mask[top:bottom], Size(mask.shape[1], mask.shape[0]), mpp=1.0)
    return mask
