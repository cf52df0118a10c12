"""What a lattice of patches can be answered as."""

from __future__ import annotations

from collections.abc import Iterator

from slidecascade.outputs import heatmap, overlay, png
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, Encoders, counted
from slidecascade.outputs.figure import Overviewed, figures
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.outputs.patches import geojson
from slidecascade.outputs.patches.csv import grid_csv
from slidecascade.outputs.patches.gridfiles import grid_npy, grid_tiff
from slidecascade.outputs.patches.heatmap import compute
from slidecascade.outputs.patches.summary import summarise
from slidecascade.outputs.summary import text
from slidecascade.patches.result import PatchesResult
from slidecascade.wire import CSV, GEOJSON, JSON, PNG

GRID_FILES = frozenset({"grid.csv", "grid.npy", "grid.tiff"})
"""The files that hold the lattice."""


def heatmaps_of(result: PatchesResult) -> tuple[Heatmap, ...]:
    """All heatmaps of `result`."""
    return tuple(compute(result, spec) for spec in result.heatmaps)


def files(result: PatchesResult, overview: Overview, drawing: Drawing) -> Files:
    """Summary, heatmaps, overlay, ``grid.csv``, ``grid.npy``, ``grid.tiff`` and ``tiles.geojson``."""
    large = geojson.encode(result)
    return Files(_small(result, overview, drawing), "tiles.geojson", large, geojson.most_bytes(result))


def _small(result: PatchesResult, overview: Overview, drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    maps = heatmaps_of(result)
    yield "summary.json", text(summarise(result, maps, drawing.colormap), indent=2)
    for item in maps:
        yield f"heatmaps/{item.name}.png", heatmap.encode_png(item, drawing.colormap)
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


def _geojson(result: PatchesResult, _drawing: Drawing) -> Iterator[bytes]:
    yield from geojson.encode(result)


def _summary(result: PatchesResult, drawing: Drawing) -> Iterator[bytes]:
    yield text(summarise(result, heatmaps_of(result), drawing.colormap))


def heatmap_of(result: PatchesResult, name: str | None) -> Heatmap:
    """The heatmap of that name; None: the first."""
    return compute(result, heatmap.named(name, result.heatmaps, pipeline=result.pipeline))


def _heatmap(result: PatchesResult, drawing: Drawing) -> Iterator[bytes]:
    yield heatmap.encode_png(heatmap_of(result, drawing.heatmap), drawing.colormap)


def _csv(result: PatchesResult, _drawing: Drawing) -> Iterator[bytes]:
    yield from grid_csv(result)


def _native(result: PatchesResult) -> Iterator[bytes]:
    yield b'{"summary":' + text(summarise(result, heatmaps_of(result))) + b',"tiles":'
    yield from geojson.encode(result)
    yield b"}"


ENCODERS = Encoders({GEOJSON: _geojson, JSON: _summary, PNG: _heatmap, CSV: _csv}, files, _native, heatmap_of)
