"""What cells can be answered as."""

from __future__ import annotations

from collections.abc import Iterator

from slidecascade.cells.result import Analysis
from slidecascade.outputs import heatmap, png
from slidecascade.outputs.cells import geojson, overlay, summary
from slidecascade.outputs.cells.heatmap import compute
from slidecascade.outputs.encoders import Drawing, Encoders, counted
from slidecascade.outputs.figure import Overviewed, figures
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.outputs.summary import text
from slidecascade.wire import GEOJSON, JSON, PNG


def files(analysis: Analysis, overview: Overview, drawing: Drawing) -> Files:
    """``summary.json``, ``heatmaps/NAME.png``, ``overlay.png`` and ``cells.geojson``.

    Raises:
        ModelFailedError: when the cells hold numbers that are not finite.
    """
    cells = geojson.encode(analysis)
    return Files(_small(analysis, overview, drawing), "cells.geojson", cells, geojson.most_bytes(analysis))


def _small(analysis: Analysis, overview: Overview, drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    maps = summary.heatmaps_of(analysis)
    numbers = summary.summarise(analysis, maps, colormap=drawing.colormap)
    yield "summary.json", text(numbers, indent=2)
    for item in maps:
        yield f"heatmaps/{item.name}.png", heatmap.encode_png(item, drawing.colormap)
    image_rgb, downsample = overview(MAX_SIDE_PX)
    drawn = overlay.draw(analysis, image_rgb, downsample=downsample)
    yield "overlay.png", png.encode(drawn)
    shown = Overviewed(image_rgb, downsample)
    yield from figures(
        analysis, maps, shown, outlined=drawn, counts=counted(analysis), colormaps=[drawing.colormap]
    )


def _geojson(analysis: Analysis, _drawing: Drawing) -> Iterator[bytes]:
    yield from geojson.encode(analysis)


def _summary(analysis: Analysis, drawing: Drawing) -> Iterator[bytes]:
    yield text(summary.summarise(analysis, colormap=drawing.colormap))


def heatmap_of(analysis: Analysis, name: str | None) -> Heatmap:
    """The heatmap of that name; None: the first."""
    return compute(analysis, heatmap.named(name, analysis.heatmaps, pipeline=analysis.pipeline))


def _heatmap(analysis: Analysis, drawing: Drawing) -> Iterator[bytes]:
    yield heatmap.encode_png(heatmap_of(analysis, drawing.heatmap), drawing.colormap)


def _native(analysis: Analysis) -> Iterator[bytes]:
    yield b'{"summary":' + text(summary.summarise(analysis)) + b',"cells":'
    yield from geojson.encode(analysis)
    yield b"}"


ENCODERS = Encoders({GEOJSON: _geojson, JSON: _summary, PNG: _heatmap}, files, _native, heatmap_of)
