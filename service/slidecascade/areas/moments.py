"""Shapes of areas from their second moments, which runs of pixels give exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.runs import Runs


def roundness(runs: Runs, count: int) -> NDArray[np.float64]:
    """``(count,)``: by label, the area over that of a disc as wide as the ellipse with the same moments is long.

    1 is a disc, 0.95 a square, and the less the longer; as ImageJ's roundness, whose ellipse is this one. Pixels
    are squares with sides of 1, not points. Without pixels it is NaN.
    """
    length = (runs.bottoms - runs.tops).astype(np.float64)
    area = _summed(runs, count, length)
    size = np.where(area > 0, area, np.nan)
    middle_x = _summed(runs, count, length * (runs.columns + 0.5)) / size
    middle_y = _summed(runs, count, length * (runs.tops + runs.bottoms) / 2) / size
    x = runs.columns + 0.5 - middle_x[runs.labels]
    top, bottom = (ends - middle_y[runs.labels] for ends in (runs.tops, runs.bottoms))
    xx = _summed(runs, count, length * (x**2 + 1 / 12)) / size
    yy = _summed(runs, count, (bottom**3 - top**3) / 3) / size
    xy = _summed(runs, count, x * (bottom**2 - top**2) / 2) / size
    longest = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.minimum(area / (4 * np.pi * longest), 1.0)


def _summed(runs: Runs, count: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(runs.labels, weights=values, minlength=count).astype(np.float64)
