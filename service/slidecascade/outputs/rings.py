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
    first, end = offsets[:-1], offsets[1:]
    x, y = (two_decimals(np.insert(axis, end, axis[first])) for axis in vertices.T)
    separators = np.full(len(vertices) + len(end), b"],")
    separators[end + np.arange(len(end))] = b"]\n"  # every ring before this one has grown by a vertex
    return lines(side_by_side(len(separators), b"[", *x, b",", *y, separators))
