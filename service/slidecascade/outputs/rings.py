"""Outlines as the text of closed rings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.outputs.columns import lines, side_by_side, two_decimals


def closed_rings(vertices: NDArray[np.float64], offsets: NDArray[np.int64]) -> list[bytes]:
    """The ring of every outline as JSON text ``[x,y],[x,y],...``, without outer brackets.

    Args:
        vertices: ``(V, 2)`` finite x and y of all outlines end to end, written with 2 decimals.
        offsets: ``(N + 1,)``; outline ``i`` is ``vertices[offsets[i] : offsets[i + 1]]``. Its first vertex is
            written again at its end.
    """
    source, last = _closing(offsets)
    x, y = (two_decimals(axis.take(source, mode="wrap")) for axis in vertices.T)
    ends = np.full(len(source), b"],")
    ends[last] = b"]\n"
    return lines(side_by_side(len(source), b"[", *x, b",", *y, ends))


def _closing(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the vertices of closed rings come from, and which of them close a ring."""
    rings = np.arange(len(offsets) - 1)
    # Every ring grows by one: its first vertex again at its end.
    last = offsets[1:] + rings
    source = np.arange(offsets[-1] + len(rings)) - np.repeat(rings, np.diff(offsets) + 1)
    source[last] = offsets[:-1]
    return source, last
