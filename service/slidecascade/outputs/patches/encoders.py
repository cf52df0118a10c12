"""What a lattice of patches can be answered as."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from slidecascade import wire
from slidecascade.outputs import overlay, png
from slidecascade.outputs.answers import Answers
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, Encoders
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.outputs.patches import geojson
from slidecascade.outputs.patches.csv import grid_csv
from slidecascade.outputs.patches.heatmap import compute
from slidecascade.outputs.summary import Figures, summary
from slidecascade.patches.result import PatchesResult
from slidecascade.wire import CSV, GEOJSON, JSON, PNG

ALL_PATCHES = "all patches"
"""The denominator of the fractions of classes."""


def summarise(
    result: PatchesResult, heatmaps: tuple[Heatmap, ...], colormap: Colormap = Colormap.VIRIDIS
) -> wire.Summary:
    """The summary of `result`: how many squares are of each class, and the outlines of these."""
    seen = int(result.is_seen.sum())
    fractions = {
        name: wire.Share(
            value=round(number / seen, 6) if seen else None, numerator=number, denominator=seen, of=ALL_PATCHES
        )
        for name, number in result.counts.items()
    }
    side_um = result.stride_px * result.grid.mpp
    outlines = np.bincount(result.outlines.class_index, minlength=len(result.classes.ends)).tolist()
    names = [end.name for end in result.classes.ends]
    figures = wire.PatchFigures(
        patches=seen,
        patch_um=round(side_um, 4),
        columns=result.probabilities.shape[1],
        rows=result.probabilities.shape[0],
        first_column=result.first[0],
        first_row=result.first[1],
        outlines=dict(zip(names, outlines, strict=True)),
    )
    return summary(result, Figures(fractions, {}, patches=figures), heatmaps, colormap)


ANSWERS: Answers[PatchesResult] = Answers(
    "tiles", geojson.encode, summarise, lambda result: result.heatmaps, compute
)
heatmaps_of = ANSWERS.heatmaps_of


def files(result: PatchesResult, overview: Overview, drawing: Drawing) -> Files:
    """``summary.json``, ``heatmaps/NAME.png``, ``overlay.png``, ``grid.csv`` and ``tiles.geojson``."""
    large = geojson.encode(result)
    return Files(_small(result, overview, drawing), "tiles.geojson", large, geojson.most_bytes(result))


def _small(result: PatchesResult, overview: Overview, drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    yield from ANSWERS.small_files(result, drawing)
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
    yield "grid.csv", b"".join(grid_csv(result))


def _csv(result: PatchesResult, _drawing: Drawing) -> Iterator[bytes]:
    yield from grid_csv(result)


ENCODERS = Encoders(
    {GEOJSON: ANSWERS.geojson, JSON: ANSWERS.summary, PNG: ANSWERS.heatmap, CSV: _csv}, files, ANSWERS.native
)
