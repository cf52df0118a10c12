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
    closed, last = _closed(vertices, offsets)
    ends = np.full(len(closed), b"],")
    ends[last] = b"]\n"
    x, y = two_decimals(closed[:, 0]), two_decimals(closed[:, 1])
    return lines(side_by_side(len(closed), b"[", *x, b",", *y, ends))


def _closed(
    vertices: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The vertices with every ring closed, and where the last one of each ring is."""
    rings = np.arange(len(offsets) - 1)
    # Every ring grows by one: its first vertex again at its end.
    last = offsets[1:] + rings
    source = np.arange(len(vertices) + len(rings)) - np.repeat(rings, np.diff(offsets) + 1)
    source[last] = offsets[:-1]
    return vertices.take(source, axis=0, mode="wrap"), last
