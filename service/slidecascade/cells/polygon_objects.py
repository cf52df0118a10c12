"""Objects with outlines of their own in a box of a grid.

Everything about an object is computed from its vertices relative to its anchor; the anchor's place, a whole number,
is added last. So an object is the same, bit for bit, in every box that shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.cells.objects import Place, Sides
from slidecascade.geometry import Box
from slidecascade.heads.objects import Polygons

SUBPIXELS = 256
"""Vertices are rounded to this part of a pixel: moved by whole pixels they stay what they are."""


@dataclass(frozen=True, slots=True)
class PolygonObjects:
    """See `slidecascade.cells.objects.SeenObjects`. An object's place is its anchor."""

    polygons: Polygons
    box: Box
    _index: dict[Place, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = (self.polygons.anchors + (self.box.x, self.box.y)).tolist()
        object.__setattr__(self, "_index", {(x, y): index for index, (x, y) in enumerate(places)})

    def __len__(self) -> int:
        return len(self.polygons)

    def pieces(self, pieces: NDArray[np.int32]) -> NDArray[np.int64]:
        x, y = self.polygons.anchors.T
        return pieces[y, x].astype(np.int64)

    def cut(self, sides: Sides) -> NDArray[np.int64]:
        """None: an outline is known as a whole where its anchor is seen."""
        return np.zeros(0, np.int64)

    def at(self, place: Place) -> int | None:
        return self._index.get(place)

    def box_of(self, index: int) -> Box:
        start, end = self.polygons.offsets[index : index + 2]
        ring = self.polygons.vertices[start:end] + self.polygons.anchors[index] + (self.box.x, self.box.y)
        (left, top), (right, bottom) = np.floor(ring.min(axis=0)), np.ceil(ring.max(axis=0))
        return Box(int(left), int(top), int(right - left), int(bottom - top))

    def place_in(self, index: int, near: Box) -> Place | None:
        x, y = (self.polygons.anchors[index] + (self.box.x, self.box.y)).tolist()
        return (x, y) if near.encloses(Box(x, y, 1, 1)) else None

    def instances(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        found = self.polygons.take(wanted)
        lengths = np.diff(found.offsets)
        vertices = np.rint(found.vertices * SUBPIXELS) / SUBPIXELS
        areas, centres = _areas_and_centres(vertices, found.offsets)
        corners = (found.anchors + (self.box.x, self.box.y)).astype(np.float64)
        cells = Instances(
            centroids=centres + corners,
            areas=areas,
            scores=found.scores,
            vertices=vertices + np.repeat(corners, lengths, axis=0),
            offsets=found.offsets,
        )
        return cells.take(reach.contains(cells.centroids) & (areas >= min_area_px))


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
