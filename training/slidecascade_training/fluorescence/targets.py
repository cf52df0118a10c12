"""Targets of the heads, from label images: flows of whole images, rays of crops."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade_training.fluorescence.network import GRID, RAYS

Labels = NDArray[np.int32]
_LONGEST_PX: Final = 96


def flow_targets(labels: Labels) -> NDArray[np.float32]:
    """``(H, W, 2)``: unit vectors right and down to the middle of each pixel's object; 0 on the background.

    Cellpose lets heat spread from the middle, which in nuclei, that have hardly any dents, points the same way.
    """
    rows, columns = np.nonzero(labels)
    flows = np.zeros((*labels.shape, 2), np.float32)
    cell = labels[rows, columns]
    area = np.maximum(np.bincount(cell), 1)
    for axis, place in enumerate((columns, rows)):
        middle = np.bincount(cell, weights=place) / area
        flows[rows, columns, axis] = middle[cell] - place
    lengths = np.linalg.norm(flows, axis=2, keepdims=True)
    found: NDArray[np.float32] = flows / np.maximum(lengths, 1e-6)
    return found


def ray_targets(labels: Labels) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Distances ``(h, w, RAYS)`` in pixels from every second pixel to its object's edge, and which are known.

    The edge is half a pixel before the first pixel outside. A ray that leaves the image before its object ends is
    not known, nor are rays from the background.
    """
    height, width = labels.shape
    anchors = labels[::GRID, ::GRID]
    distances = np.zeros((*anchors.shape, RAYS), np.float32)
    known = np.zeros(distances.shape, np.bool_)
    rows, columns = np.nonzero(anchors > 0)
    if not len(rows):
        return distances, known
    directions = _directions()
    owner = np.repeat(anchors[rows, columns], RAYS)
    x = np.repeat(columns * GRID, RAYS).astype(np.float32)
    y = np.repeat(rows * GRID, RAYS).astype(np.float32)
    right, down = np.tile(directions[0], len(rows)), np.tile(directions[1], len(rows))
    length = np.zeros(len(owner), np.float32)
    is_known = np.zeros(len(owner), np.bool_)
    active = np.arange(len(owner))
    for step in range(1, _LONGEST_PX + 1):
        column = np.rint(x[active] + step * right[active]).astype(np.int32)
        row = np.rint(y[active] + step * down[active]).astype(np.int32)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        active, column, row = active[inside], column[inside], row[inside]
        ends = labels[row, column] != owner[active]
        ended = active[ends]
        # The step that left the object went over its edge by half a pixel along its longer axis.
        length[ended] = step - 0.5 / np.maximum(np.abs(right[ended]), np.abs(down[ended]))
        is_known[ended] = True
        active = active[~ends]
        if not len(active):
            break
    distances[rows, columns] = length.reshape(-1, RAYS)
    known[rows, columns] = is_known.reshape(-1, RAYS)
    return distances, known


@functools.cache
def _directions() -> NDArray[np.float32]:
    """``(2, RAYS)``: right and down of unit vectors, clockwise on the screen."""
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
