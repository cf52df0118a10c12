"""Objects annotated on a slide or an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""``(N, 2)`` x and y in level-0 pixels."""

NO_POINTS: Final = np.zeros((0, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One annotated object: points, or a polygon with holes; in level-0 pixels.

    Attributes:
        class_name: None when the object has no class.
        points_l0: ``(N, 2)`` point marks; empty for a polygon.
        rings_l0: the outline first, then its holes, each ``(V, 2)`` and not closed; empty for points.
    """

    class_name: str | None
    points_l0: Points
    rings_l0: tuple[Points, ...]

    @classmethod
    def of_points(cls, class_name: str | None, points_l0: Points) -> Annotation:
        return cls(class_name=class_name, points_l0=points_l0, rings_l0=())

    @classmethod
    def of_polygon(cls, class_name: str | None, rings_l0: Sequence[Points]) -> Annotation:
        """The polygon with its closing points removed."""
        return cls(class_name=class_name, points_l0=NO_POINTS, rings_l0=tuple(map(_opened, rings_l0)))

    def shifted(self, x_l0: float, y_l0: float) -> Annotation:
        """The same, moved right and down by level-0 pixels."""
        by = np.array([x_l0, y_l0])
        return replace(self, points_l0=self.points_l0 + by, rings_l0=tuple(ring + by for ring in self.rings_l0))

    @property
    def is_polygon(self) -> bool:
        return bool(self.rings_l0)

    @property
    def is_flat(self) -> bool:
        """Whether it is a polygon without area: its corners are collinear, or its holes are as large as itself."""
        if not self.is_polygon:
            return False
        outline, *holes = self.rings_l0
        if holes and sum(map(area_of, holes)) >= area_of(outline):
            return True
        return int(np.linalg.matrix_rank(outline - outline[0])) < 2

    @property
    def centres_l0(self) -> Points:
        """The points, or the polygon's centre of area ``(1, 2)``."""
        return _centre_of_area(self.rings_l0[0])[None] if self.is_polygon else self.points_l0

    def contains(self, points_l0: Points) -> npt.NDArray[np.bool_]:
        """Which of `points_l0` ``(N, 2)`` lie in the outline, by the even-odd rule, and in none of its holes."""
        inside = np.zeros(len(points_l0), np.bool_)
        if not self.is_polygon:
            return inside
        low, high = self.rings_l0[0].min(axis=0), self.rings_l0[0].max(axis=0)
        near = np.flatnonzero(((points_l0 >= low) & (points_l0 <= high)).all(axis=1))
        outline, *holes = self.rings_l0
        step = max(1, min(_CHUNK, _PRODUCTS // max(map(len, self.rings_l0))))
        for start in range(0, len(near), step):
            rows = near[start : start + step]
            is_in = _crossings(outline, points_l0[rows]) % 2 == 1
            for hole in holes:
                is_in &= _crossings(hole, points_l0[rows]) % 2 == 0
            inside[rows] = is_in
        return inside


_CHUNK: Final = 1024
_PRODUCTS: Final = 2**22
"""Most points, and most products of points and sides, of a step: they bound its memory."""


def area_of(ring: Points) -> float:
    """The area of a ring ``(V, 2)`` in square pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _opened(ring: Points) -> Points:
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def _centre_of_area(ring: Points) -> Points:
    """Centre ``(2,)`` by the shoelace formula; the mean of the vertices where there is no area."""
    middle: Points = ring.mean(axis=0)
    near = ring - middle  # products of level-0 positions would lose digits
    following = np.roll(near, -1, axis=0)
    cross = near[:, 0] * following[:, 1] - following[:, 0] * near[:, 1]
    total = cross.sum()
    if abs(total) < 1e-9:
        return middle
    centre: Points = middle + ((near + following) * cross[:, None]).sum(axis=0) / (3 * total)
    return centre


def _crossings(ring: Points, points: Points) -> npt.NDArray[np.int64]:
    """Number of sides of `ring` that a ray from each point to the right crosses."""
    start, end = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    level = (low <= points[:, 1].max()) & (high >= points[:, 1].min())
    start, end = start[level], end[level]
    x, y = points[:, :1], points[:, 1:]
    spans = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    counted: npt.NDArray[np.int64] = (spans & (x < at)).sum(axis=1)
    return counted
