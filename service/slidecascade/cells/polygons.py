"""From polygons to cells.

Everything about an object is computed from its vertices relative to its anchor; the anchor's place, a whole
number, is added last. So an object is the same, bit for bit, in every box that shows it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.heads.objects import Polygons

SUBPIXELS = 256
"""Vertices are rounded to this part of a pixel: moved by whole pixels they stay what they are."""


def place(polygons: Polygons, *, origin: tuple[int, int]) -> Instances:
    """The cells of `polygons` in the frame in which their image's corner lies at `origin`, in whole pixels."""
    vertices = np.rint(polygons.vertices * SUBPIXELS) / SUBPIXELS
    areas, centres = _areas_and_centres(vertices, polygons.offsets)
    corners = (polygons.anchors + np.array(origin)).astype(np.float64)
    return Instances(
        centroids=centres + corners,
        areas=areas,
        scores=polygons.scores,
        vertices=vertices + np.repeat(corners, np.diff(polygons.offsets), axis=0),
        offsets=polygons.offsets,
    )


def _areas_and_centres(
    vertices: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N,)`` areas and ``(N, 2)`` centroids of rings, by the shoelace formula; of a ring without area its mean.

    Each ring is summed by itself and in its own order, so that its numbers do not depend on the rings around it.
    """
    if len(offsets) == 1:
        return np.zeros(0), np.zeros((0, 2))
    after = np.arange(1, len(vertices) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    ahead = vertices[after]
    cross = vertices[:, 0] * ahead[:, 1] - ahead[:, 0] * vertices[:, 1]
    doubled = np.add.reduceat(cross, offsets[:-1])
    moments = np.add.reduceat((vertices + ahead) * cross[:, None], offsets[:-1], axis=0)
    means = np.add.reduceat(vertices, offsets[:-1], axis=0) / np.diff(offsets)[:, None]
    flat = doubled == 0
    centres = moments / np.where(flat, 1.0, 3 * doubled)[:, None]
    return np.abs(doubled) / 2, np.where(flat[:, None], means, centres)
