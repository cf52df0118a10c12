"""The encoders of patches."""

from __future__ import annotations

from collections.abc import Iterator

from slidecascade.outputs import overlay, png
from slidecascade.outputs.answers import Answers
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, Encoders, counted
from slidecascade.outputs.figure import Overviewed, figures
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.outputs.patches import geojson
from slidecascade.outputs.patches.csv import grid_csv
from slidecascade.outputs.patches.gridfiles import grid_npy, grid_tiff
from slidecascade.outputs.patches.heatmap import compute
from slidecascade.outputs.patches.summary import summarise
from slidecascade.patches.result import PatchesResult
from slidecascade.wire import CSV, GEOJSON, JSON, PNG

GRID_FILES = frozenset({"grid.csv", "grid.npy", "grid.tiff"})
"""The files that hold the lattice."""


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
    image_rgb, downsample = overview(MAX_SIDE_PX)
    drawn = overlay.draw(
        result,
        overlay.shapes_of(
            result.outlines.rings, result.outlines.class_index, result.classes, list(result.counts.values())
        ),
        image_rgb,
        downsample=downsample,
        typical_l0=result.stride_px * result.grid.downsample,
    )
    yield "overlay.png", png.encode(drawn)
    shown = Overviewed(image_rgb, downsample)
    colormaps = [drawing.colormap, Colormap.JET]
    yield from figures(result, maps, shown, outlined=drawn, counts=counted(result), colormaps=colormaps)
    yield "grid.csv", b"".join(grid_csv(result))
    yield "grid.npy", grid_npy(result)
    if result.is_seen.size:
        yield "grid.tiff", grid_tiff(result)


def _csv(result: PatchesResult, _drawing: Drawing) -> Iterator[bytes]:
    yield from grid_csv(result)


ENCODERS = Encoders(
    {GEOJSON: ANSWERS.geojson, JSON: ANSWERS.summary, PNG: ANSWERS.heatmap, CSV: _csv},
    files,
    ANSWERS.native,
    ANSWERS.named,
)
