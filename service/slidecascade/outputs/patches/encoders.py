"""The encoders of patches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np

from slidecascade.outputs import overlay
from slidecascade.outputs.answers import Answers
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, Encoders, pictures
from slidecascade.outputs.figure import Overviewed, Rgb
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.patches import geojson
from slidecascade.outputs.patches.csv import grid_csv
from slidecascade.outputs.patches.gridfiles import grid_npy, grid_tiff
from slidecascade.outputs.patches.heatmap import compute
from slidecascade.outputs.patches.summary import summarise
from slidecascade.patches.result import PatchesResult
from slidecascade.wire import CSV, GEOJSON, JSON, PNG

GRID_FILES = frozenset({"grid.csv", "grid.npy", "grid.tiff"})
"""The files that hold the lattice."""

TINT: Final = np.float32(0.35)
"""How strong the colour of a square's class lies over the tissue."""


ANSWERS: Answers[PatchesResult] = Answers(
    "tiles", geojson.encode, summarise, lambda result: result.heatmaps, compute
)
heatmaps_of = ANSWERS.heatmaps_of


def files(result: PatchesResult, overview: Overview, drawing: Drawing) -> Files:
    """Summary, heatmaps, overlay, ``grid.csv``, ``grid.npy``, ``grid.tiff`` and ``tiles.geojson``."""
    large = geojson.encode(result)
    return Files(_small(result, overview, drawing), "tiles.geojson", large, geojson.most_bytes(result))


def _small(result: PatchesResult, overview: Overview, drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    maps = ANSWERS.heatmaps_of(result)
    yield from ANSWERS.small_files(result, maps, drawing)
    if drawing.shows_tissue:
        draw, colormaps = partial(_outlined, result), [drawing.colormap, Colormap.JET]
        yield from pictures(result, maps, overview, drawing, draw=draw, colormaps=colormaps)
    yield "grid.csv", b"".join(grid_csv(result))
    yield "grid.npy", grid_npy(result)
    if result.is_seen.size:
        yield "grid.tiff", grid_tiff(result)


def _outlined(result: PatchesResult, image_rgb: Rgb, downsample: float) -> Rgb:
    outlines = result.outlines
    return overlay.draw(
        result,
        overlay.shapes_of(outlines.rings, outlines.class_index, result.classes, list(result.counts.values())),
        image_rgb,
        downsample=downsample,
        typical_l0=result.stride_px * result.grid.downsample,
    )


def drawn(result: PatchesResult, overview: Overviewed) -> Rgb:
    """The squares in the colours of their classes, and the outlines of these, over the region."""
    height, width = overview.image.shape[:2]
    tinted = _tinted(result, overview)
    return _outlined(result, tinted, overview.downsample)[:height, :width]


def _tinted(result: PatchesResult, overview: Overviewed) -> Rgb:
    """The region with the colour of its class over each square."""
    height, width = overview.image.shape[:2]
    square_l0 = result.stride_px * result.grid.downsample
    places = (
        ((np.arange(length) + 0.5) * overview.downsample + start) // square_l0 - first
        for length, start, first in (
            (width, result.region_l0.x, result.first[0]),
            (height, result.region_l0.y, result.first[1]),
        )
    )
    columns, rows = (np.asarray(place, np.int64) for place in places)
    index = np.full((height, width), -1)
    of_squares = result.class_index
    inside_x = (columns >= 0) & (columns < of_squares.shape[1])
    inside_y = (rows >= 0) & (rows < of_squares.shape[0])
    index[np.ix_(inside_y, inside_x)] = of_squares[np.ix_(rows[inside_y], columns[inside_x])]
    colors = np.array([end.color for end in result.classes.ends], np.float32)[index.clip(0)]
    mixed = TINT * colors + (1 - TINT) * overview.image
    return np.rint(np.where((index >= 0)[:, :, None], mixed, overview.image)).astype(np.uint8)


def _csv(result: PatchesResult, _drawing: Drawing) -> Iterator[bytes]:
    yield from grid_csv(result)


ENCODERS = Encoders(
    {GEOJSON: ANSWERS.geojson, JSON: ANSWERS.summary, PNG: ANSWERS.heatmap, CSV: _csv},
    files,
    ANSWERS.native,
    ANSWERS.named,
    drawn,
)
