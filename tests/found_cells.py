"""True and predicted label images that differ as those of a real network do, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


def found_cells(seed: int, *, side_px: int = 160, cells: int = 24) -> tuple[Labels, Labels]:
    """Ellipses, and the same ones moved, swollen, split in two, left out and added to."""
    rng = np.random.default_rng(seed)
    truth, predicted = np.zeros((side_px, side_px), np.int32), np.zeros((side_px, side_px), np.int32)
    for number in range(1, cells + 1):
        x, y = (int(value) for value in rng.integers(8, side_px - 8, 2))
        a, b = (int(value) for value in rng.integers(6, 17, 2))
        dx, dy, grow = (int(value) for value in rng.integers(-3, 4, 3))
        fate = rng.random()
        if fate > 0.1:
            truth[_ellipse(side_px, x, y, a, b)] = 2 * number
        if fate < 0.8:
            predicted[_ellipse(side_px, x + dx, y + dy, a + grow, b + grow)] = number
        elif fate < 0.9:
            whole = _ellipse(side_px, x, y, a, b)
            predicted[whole] = number
            whole[:y] = False
            predicted[whole] = cells + number
    return truth, predicted


def _ellipse(side_px: int, x: int, y: int, a: int, b: int) -> NDArray[np.bool_]:
    ys, xs = np.ogrid[:side_px, :side_px]
    inside: NDArray[np.bool_] = ((xs - x) * b) ** 2 + ((ys - y) * a) ** 2 <= (a * b) ** 2
    return inside
