"""The lattice as comma-separated values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from slidecascade.outputs.columns import four_decimals, lines, side_by_side
from slidecascade.patches.result import PatchesResult


def grid_csv(result: PatchesResult) -> Iterator[bytes]:
    """``x,y,probability``: columns and rows of the slide's lattice, so that ``(x, y)`` is a pixel of the slide
    shrunk by the stride.

    A line for each square the classifier looked at, row by row. Where more than one class is shown, they follow
    one another, and a fourth column holds their name.
    """
    rows, columns = np.nonzero(result.is_seen)
    several = len(result.shown) > 1
    yield b"x,y,probability,class\n" if several else b"x,y,probability\n"
    places = [
        (np.array(axis + start).astype("S")) for axis, start in zip((columns, rows), result.first, strict=True)
    ]
    for channel, end in zip(result.shown, result.classes.ends, strict=True):
        values = four_decimals(result.probabilities[rows, columns, channel].astype(np.float64))
        tail = f',"{end.name}"\n'.replace('""', '"').encode() if several else b"\n"
        text = lines(side_by_side(len(rows), places[0], b",", places[1], b",", values, tail))
        yield b"".join(line + b"\n" for line in text)
