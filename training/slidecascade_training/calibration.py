"""Calibration of probabilities (after Guo et al. 2017): calibration error, temperature, and the minimum
probability of an assigned class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]

BINS: Final = 15
"""Bins of the calibration error: those of Guo et al."""
_COOLEST, _WARMEST = 0.25, 8.0
FLOORS: Final = tuple(round(0.40 + 0.05 * step, 2) for step in range(12))  # 0.40 to 0.95
MOST_BELOW: Final = 0.02  # of the calibration crops


@dataclass(frozen=True, slots=True)
class Calibration:
    """By bin of the highest probability: number of predictions, mean probability, number of correct ones."""

    counts: Labels
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, weighted by the predictions in each bin; NaN without
        predictions."""
        if not self.counts.sum():
            return float("nan")
        gaps = np.abs(self.confidence - self.accuracy)
        return float((gaps * self.counts).sum() / self.counts.sum())


def calibration_of(probabilities: Floats, truth: Labels) -> Calibration:
    """From probabilities ``(N, C)`` and class numbers ``(N,)``; bins of equal width."""
    highest = probabilities.max(axis=1).astype(np.float64)
    right = (np.argmax(probabilities, axis=1) == truth).astype(np.float64)
    bins = np.minimum((highest * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    whole = np.maximum(counts, 1)
    return Calibration(
        counts,
        confidence=np.bincount(bins, weights=highest, minlength=BINS) / whole,
        accuracy=np.bincount(bins, weights=right, minlength=BINS) / whole,
    )


def temperature(logits: Floats, labels: Labels) -> float:
    """The factor by which dividing the logits (N, C) makes the labels (N,) most likely, classes equally weighted.

    The loss is convex in the inverse of the temperature, so a bounded search over its logarithm finds the unique
    minimum.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    weights = 1.0 / np.bincount(labels, minlength=logits.shape[1])[labels]
    rows = np.arange(labels.size)

    def loss(log_temperature: float) -> float:
        likely = log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels]
        return float(-(weights * likely).sum() / weights.sum())

    found = minimize_scalar(
        loss, bounds=(np.log(_COOLEST), np.log(_WARMEST)), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def floor_for(probabilities: Floats) -> float:
    """The highest of `FLOORS` that leaves at most `MOST_BELOW` of the rows without a class."""
    winners = probabilities.max(axis=1)
    fitting = [floor for floor in FLOORS if float(np.mean(winners < floor)) <= MOST_BELOW]
    return fitting[-1] if fitting else FLOORS[0]
