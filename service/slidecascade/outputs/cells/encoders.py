"""What cells can be answered as."""

from __future__ import annotations

from collections.abc import Iterator

from slidecascade.cells.result import Analysis
from slidecascade.outputs import png
from slidecascade.outputs.answers import Answers
from slidecascade.outputs.cells import geojson, overlay, summary
from slidecascade.outputs.cells.heatmap import compute
from slidecascade.outputs.encoders import Drawing, Encoders
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.wire import GEOJSON, JSON, PNG

ANSWERS: Answers[Analysis] = Answers(
    "cells", geojson.encode, summary.summarise, lambda analysis: analysis.heatmaps, compute
)


def files(analysis: Analysis, overview: Overview, drawing: Drawing) -> Files:
    """``summary.json``, ``heatmaps/NAME.png``, ``overlay.png`` and ``cells.geojson``.

    Raises:
        ModelFailedError: when the cells hold numbers that are not finite.
    """
    cells = geojson.encode(analysis)
    return Files(_small(analysis, overview, drawing), "cells.geojson", cells, geojson.most_bytes(analysis))


def _small(analysis: Analysis, overview: Overview, drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    yield from ANSWERS.small_files(analysis, drawing)
    image_rgb, downsample = overview(MAX_SIDE_PX)
    yield "overlay.png", png.encode(overlay.draw(analysis, image_rgb, downsample=downsample))


ENCODERS = Encoders({GEOJSON: ANSWERS.geojson, JSON: ANSWERS.summary, PNG: ANSWERS.heatmap}, files, ANSWERS.native)
