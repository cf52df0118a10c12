"""The summary of a lattice of patches."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.extent import UM2_PER_MM2
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.summary import Figures, summary
from slidecascade.patches.result import Outlines, PatchesResult

ALL_PATCHES: Final = "all patches"
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
    outlines = np.bincount(result.outlines.class_index, minlength=len(result.classes.ends)).tolist()
    names = [end.name for end in result.classes.ends]
    figures = wire.PatchFigures(
        patches=seen,
        patch_um=round(result.stride_px * result.grid.mpp, 4),
        columns=result.probabilities.shape[1],
        rows=result.probabilities.shape[0],
        first_column=result.first[0],
        first_row=result.first[1],
        outlines=dict(zip(names, outlines, strict=True)),
        classes={name: _of_class(result, index) for index, name in enumerate(names)},
    )
    return summary(result, Figures(fractions, {}, patches=figures), heatmaps, colormap)


def _of_class(result: PatchesResult, index: int) -> wire.PatchClassFigures:
    values = result.probabilities[:, :, result.shown[index]]
    seen = values[result.is_seen]
    reached = int((seen >= result.threshold).sum())
    side_um = result.stride_px * result.grid.mpp
    largest_um = longest_l0(result.outlines, index) * result.mpp
    return wire.PatchClassFigures(
        area_mm2=round(reached * side_um**2 / UM2_PER_MM2, 6),
        share=round(reached / seen.size, 6) if seen.size else None,
        maximum=round(float(seen.max()), 4) if seen.size else None,
        percentile_95=round(float(np.percentile(seen, 95)), 4) if seen.size else None,
        outlines=int((result.outlines.class_index == index).sum()),
        largest_um=round(largest_um, 1) if largest_um > 0 else None,
    )


def longest_l0(outlines: Outlines, index: int) -> float:
    """The greatest distance between two points of one outline of class `index`, in level-0 pixels; 0: none."""
    rings = outlines.rings
    first_ring = rings.piece_offsets[:-1]
    diagonals = _diagonals(rings.vertices, rings.ring_offsets, first_ring)
    longest = 0.0
    candidates = np.flatnonzero(outlines.class_index == index)
    for piece in candidates[np.argsort(-diagonals[candidates])].tolist():
        if diagonals[piece] <= longest:
            break  # no other is longer than its box
        ring = first_ring[piece]
        vertices = rings.vertices[rings.ring_offsets[ring] : rings.ring_offsets[ring + 1]]
        hull = cv2.convexHull(vertices.astype(np.float32))[:, 0].astype(np.float64)
        longest = max(longest, float(np.hypot(*(hull[:, None] - hull[None]).transpose(2, 0, 1)).max()))
    return longest


def _diagonals(
    vertices: NDArray[np.float64], ring_offsets: NDArray[np.int64], rings: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``(N,)``: the diagonals of the boxes around `rings`."""
    if not len(rings):
        return np.zeros(0)
    high = np.maximum.reduceat(vertices, ring_offsets[:-1], axis=0)
    low = np.minimum.reduceat(vertices, ring_offsets[:-1], axis=0)
    sides = (high - low)[rings]
    return np.asarray(np.hypot(sides[:, 0], sides[:, 1]), np.float64)
