"""Outlines as their first vertices and the ways from each vertex to the next, in whole units: few bytes each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class OutlineWays:
    """Of N outlines with V vertices, in whole units.

    Attributes:
        firsts: int64 ``(N, 2)``, x and y.
        ways: int64 ``(V - N, 2)``.
        width: bytes of a way's coordinate: 2 where all are short enough, else 4.
    """

    firsts: NDArray[np.int64]
    ways: NDArray[np.int64]
    width: int

    @classmethod
    def of(cls, vertices: NDArray[np.float64], offsets: NDArray[np.int64], units: int) -> OutlineWays:
        """Of outlines whose `vertices` ``(V, 2)`` begin at `offsets` ``(N + 1,)``; `units` to a level-0 pixel."""
        points = np.rint(vertices * units).astype(np.int64)
        starts = offsets[:-1]
        follows = np.ones(len(points), np.bool_)
        follows[starts] = False
        ways = np.diff(points, axis=0, prepend=points[:1])[follows]
        return cls(points[starts], ways, 2 if np.abs(ways).max(initial=0) < 2**15 else 4)
