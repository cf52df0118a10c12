"""Outlines as the text of closed rings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slidecascade.outputs.columns import side_by_side, two_decimals


def closed_rings(vertices: NDArray[np.float64], offsets: NDArray[np.int64]) -> list[bytes]:
    """The ring of every outline as JSON text ``[x,y],[x,y],...``, without outer brackets.

    Args:
        vertices: ``(V, 2)`` finite x and y of all outlines end to end, written with 2 decimals.
        offsets: ``(N + 1,)``; outline ``i`` is ``vertices[offsets[i] : offsets[i + 1]]``. Its first vertex is
            written again at its end.
    """
    first, end = offsets[:-1], offsets[1:]
    x, y = (two_decimals(np.insert(axis, end, axis[first])) for axis in vertices.T)
    rows = side_by_side(len(vertices) + len(end), b"[", *x, b",", *y, b"],")
    text = rows.tobytes()
    # Every ring has grown by a vertex; the comma behind its last one is left out.
    begins = ((offsets + np.arange(len(offsets))) * rows.itemsize).tolist()
    return [text[begin : stop - 1].replace(b"\0", b"") for begin, stop in pairwise(begins)]
