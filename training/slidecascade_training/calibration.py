"""Probabilities that mean what they say: temperature, expected calibration error, and the floor below which
an answer is none (after Guo and others 2017)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]

_BINS: Final = 15
_COOLEST, _WARMEST = 0.25, 8.0
FLOORS: Final = tuple(round(0.40 + 0.05 * step, 2) for step in range(12))  # 0.40 to 0.95
MOST_BELOW: Final = 0.02  # of the calibration crops


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row of (N, C)."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds: Floats = raised / raised.sum(axis=1, keepdims=True)
    return odds


def temperature(logits: Floats, labels: Labels) -> float:
    """The factor by which dividing the logits (N, C) makes the labels (N,) most likely, classes equally weighted.

    Golden-section search over the logarithm: the loss is convex in the inverse of the temperature.
    """
    weights = 1.0 / np.bincount(labels, minlength=logits.shape[1])[labels]

    def loss(log_temperature: float) -> float:
        odds = softmax(logits / np.exp(log_temperature))
        right = odds[np.arange(labels.size), labels]
        return float(-(weights * np.log(np.maximum(right, 1e-12))).sum() / weights.sum())

    low, high, ratio = np.log(_COOLEST), np.log(_WARMEST), (np.sqrt(5.0) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def expected_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """How far confidence is from accuracy on average: 15 bins of equal width over the winner's probability."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(which, weights=right - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / labels.size)


def floor_for(probabilities: Floats) -> float:
    """The highest of `FLOORS` that leaves at most `MOST_BELOW` of the rows without a class."""
    winners = probabilities.max(axis=1)
    fitting = [floor for floor in FLOORS if float(np.mean(winners < floor)) <= MOST_BELOW]
    return fitting[-1] if fitting else FLOORS[0]
