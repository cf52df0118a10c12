"""Text of vertices, many outlines at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from slidecascade.exports.shapes import Shapes
from slidecascade.outputs.columns import side_by_side, two_decimals


def ring_texts(shapes: Shapes, before: bytes, between: bytes, after: bytes, *, order: bytes = b"") -> list[bytes]:
    """The text of each ring: for each vertex `before`, x, `between`, y, `after`; numbers have 2 decimals.

    Args:
        order: written before all of it and followed by the vertex's place in its ring, from 0.
    """
    x, y = (two_decimals(np.ascontiguousarray(axis)) for axis in shapes.vertices.T)
    starts = shapes.ring_offsets
    columns: tuple[np.ndarray | bytes, ...] = (before, *x, between, *y, after)
    if order:
        places = np.arange(len(shapes.vertices)) - np.repeat(starts[:-1], np.diff(starts))
        columns = (order, places.astype("S"), *columns)
    rows = side_by_side(len(shapes.vertices), *columns)
    text = rows.tobytes()
    return [text[begin:end].replace(b"\0", b"") for begin, end in pairwise((starts * rows.itemsize).tolist())]
