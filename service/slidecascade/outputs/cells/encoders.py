"""The encoders of cells."""

from __future__ import annotations

from collections.abc import Iterator

from slidecascade.cells.result import Analysis
from slidecascade.outputs import png
from slidecascade.outputs.answers import Answers
from slidecascade.outputs.cells import geojson, overlay, summary
from slidecascade.outputs.cells.heatmap import compute
from slidecascade.outputs.encoders import Drawing, Encoders, counted
from slidecascade.outputs.figure import Overviewed, Rgb, figures
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.wire import GEOJSON, JSON, PNG


def _geojson(analysis: Analysis) -> Iterator[bytes]:
    return geojson.encode(analysis)  # looked up at each call


ANSWERS: Answers[Analysis] = Answers(
    "cells", _geojson, summary.summarise, lambda analysis: analysis.heatmaps, compute
)


def files(analysis: Analysis, overview: Overview, drawing: Drawing) -> Files:
    """``summary.json``, ``heatmaps/NAME.png``, ``overlay.png`` and ``cells.geojson``.

    Raises:
        ModelFailedError: when the cells hold numbers that are not finite.
    """
    cells = geojson.encode(analysis)
    return Files(_small(analysis, overview, drawing), "cells.geojson", cells, geojson.most_bytes(analysis))


def _small(analysis: Analysis, overview: Overview, drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    maps = ANSWERS.heatmaps_of(analysis)
    yield from ANSWERS.small_files(analysis, maps, drawing)
    if not drawing.shows_tissue:
        return
    image_rgb, downsample = overview(MAX_SIDE_PX)
    drawn = overlay.draw(analysis, image_rgb, downsample=downsample)
    if "overlay" not in drawing.without:
        yield "overlay.png", png.encode(drawn)
    if "figures" not in drawing.without:
        shown = Overviewed(image_rgb, downsample)
        yield from figures(
            analysis, maps, shown, outlined=drawn, counts=counted(analysis), colormaps=[drawing.colormap]
        )


def drawn(analysis: Analysis, overview: Overviewed) -> Rgb:
    """The outlines over the region."""
    page = overlay.draw(analysis, overview.image, downsample=overview.downsample)
    return page[: overview.image.shape[0], : overview.image.shape[1]]


ENCODERS = Encoders(
    {GEOJSON: ANSWERS.geojson, JSON: ANSWERS.summary, PNG: ANSWERS.heatmap},
    files,
    ANSWERS.native,
    ANSWERS.named,
    drawn,
)
