"""Outlines to label images.

A pixel belongs to a cell when its centre lies inside the cell's outline or on it. Outlines lie on the pixel
corner lattice (pixel ``i`` covers ``[i, i + 1)``, its centre is ``i + 0.5``), so the service's outlines, half a
pixel outside the outermost pixel centres, reproduce the cell's pixels. OpenCV's ``fillPoly``
would add every pixel that an outline touches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slidecascade_evaluation.matching import Labels

_EPSILON_PX = 1e-6
"""Crossings are computed in floating point: a centre this close to an outline is on it."""

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


def labels_from_outlines(vertices: _Floats, offsets: _Ints, *, height_px: int, width_px: int) -> Labels:
    """Fill rings by the even-odd rule.

    Args:
        vertices: ``(V, 2)`` float64 x and y in pixels, rings end to end and not closed.
        offsets: ``(N + 1,)`` int64; ring ``i`` owns ``vertices[offsets[i]:offsets[i + 1]]``.
        height_px, width_px: of the image; vertices outside are clipped.

    Returns:
        ``(height_px, width_px)`` int32: 0 background, ring ``i`` is ``i + 1``. Where rings overlap the smaller one
        is on top.
    """
    labels = np.zeros((height_px, width_px), np.int32)
    if len(offsets) < 2:
        return labels
    # Both conventions for a scanline through a vertex: together they fill the closed polygon.
    each = np.arange(len(offsets) - 1, dtype=np.int64)
    spans = [_spans(vertices, offsets, each, is_lower_end_in=is_in) for is_in in (True, False)]
    ring, row, left, right = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    left, right = np.maximum(left, 0), np.minimum(right, width_px - 1)
    kept = (right >= left) & (row >= 0) & (row < height_px)
    ring, row, left, right = ring[kept], row[kept], left[kept], right[kept]
    order = np.argsort(-_areas(vertices, offsets)[ring], kind="stable")
    ring, row, left, right = ring[order], row[order], left[order], right[order]
    lengths = right - left + 1
    starts = np.cumsum(lengths) - lengths
    pixels = np.arange(lengths.sum()) + np.repeat(row * width_px + left - starts, lengths)
    labels.ravel()[pixels] = np.repeat(ring + 1, lengths)
    return labels


def runs_of_polygons(polygons: Sequence[Sequence[_Floats]]) -> tuple[_Ints, _Ints, _Ints]:
    """Row, first and last column of runs of pixels in polygons with holes, by the even-odd rule; runs may overlap.

    Args:
        polygons: of each its rings, ``(V, 2)`` float64 x and y in pixels, not closed.
    """
    rings = [ring for polygon in polygons for ring in polygon]
    if not rings:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    offsets = np.cumsum([0, *map(len, rings)], dtype=np.int64)
    owners = np.repeat(np.arange(len(polygons), dtype=np.int64), [len(polygon) for polygon in polygons])
    spans = [_spans(np.concatenate(rings), offsets, owners, is_lower_end_in=is_in)[1:] for is_in in (True, False)]
    row, left, right = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    kept = right >= left
    return row[kept], left[kept], right[kept]


def filled(polygons: Sequence[Sequence[_Floats]], *, height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
    """``(height_px, width_px)``: the pixels in any of `polygons`, see `runs_of_polygons`."""
    row, left, right = runs_of_polygons(polygons)
    left, right = np.maximum(left, 0), np.minimum(right, width_px - 1)
    kept = (left <= right) & (row >= 0) & (row < height_px)
    changes = np.zeros((height_px, width_px + 1), np.int32)
    np.add.at(changes, (row[kept], left[kept]), 1)
    np.add.at(changes, (row[kept], right[kept] + 1), -1)
    return np.asarray(np.cumsum(changes, axis=1)[:, :-1] > 0, np.bool_)


def _spans(
    vertices: _Floats, offsets: _Ints, owners: _Ints, *, is_lower_end_in: bool
) -> tuple[_Ints, _Ints, _Ints, _Ints]:
    """Owner, row, first and last column (perhaps before the first) of every run of pixel centres inside an owner's
    rings; `owners` ``(N,)`` has the owner of each ring.
    """
    rings = np.repeat(owners, np.diff(offsets))
    ends = vertices[_next(offsets)]
    is_down = vertices[:, 1] <= ends[:, 1]
    top = np.where(is_down[:, None], vertices, ends)
    bottom = np.where(is_down[:, None], ends, vertices)
    if is_lower_end_in:
        first, stop = np.ceil(top[:, 1] - 0.5), np.ceil(bottom[:, 1] - 0.5)
    else:
        first, stop = np.floor(top[:, 1] - 0.5) + 1, np.floor(bottom[:, 1] - 0.5) + 1
    counts = (stop - first).astype(np.int64)
    edge = np.repeat(np.arange(len(counts)), counts)
    row = (
        np.arange(int(counts.sum()), dtype=np.int64)
        - np.repeat(np.cumsum(counts) - counts, counts)
        + first.astype(np.int64)[edge]
    )
    share = (row + 0.5 - top[edge, 1]) / (bottom[edge, 1] - top[edge, 1])
    x = top[edge, 0] + share * (bottom[edge, 0] - top[edge, 0])
    order = np.lexsort((x, row, rings[edge]))
    # A closed ring crosses a scanline an even number of times.
    entering, leaving = order[0::2], order[1::2]
    left = np.ceil(x[entering] - 0.5 - _EPSILON_PX).astype(np.int64)
    right = np.floor(x[leaving] - 0.5 + _EPSILON_PX).astype(np.int64)
    return rings[edge][entering], row[entering], left, right


def _next(offsets: _Ints) -> _Ints:
    """The vertex after each vertex of its ring."""
    after = np.arange(1, int(offsets[-1]) + 1, dtype=np.int64)
    after[offsets[1:] - 1] = offsets[:-1]
    return after


def _areas(vertices: _Floats, offsets: _Ints) -> _Floats:
    """``(N,)`` square pixels, by the shoelace formula."""
    ends = vertices[_next(offsets)]
    crosses = vertices[:, 0] * ends[:, 1] - ends[:, 0] * vertices[:, 1]
    areas: _Floats = np.abs(np.add.reduceat(crosses, offsets[:-1])) / 2
    return areas
