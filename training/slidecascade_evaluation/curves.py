"""Curves of probabilities against a binary truth: ROC, precision and recall, lesions over false positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

FALSE_POSITIVES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Per slide: where CAMELYON16 reads its FROC curve."""

_LEVELS: Final = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""Thresholds of the FROC curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """True and false positives, and positives in all, at each distinct probability from high to low.

    `true`, `false` ``(N,)`` count the points whose probability is at least that of the row.
    """

    true: npt.NDArray[np.int64]
    false: npt.NDArray[np.int64]
    positives: int
    negatives: int

    @classmethod
    def of(cls, truth: Bools, probabilities: Floats) -> Curve:
        """From points ``(N,)``."""
        order = np.argsort(-probabilities, kind="stable")
        sorted_truth, values = truth[order], probabilities[order]
        last = (
            np.append(np.flatnonzero(np.diff(values)), values.size - 1) if values.size else np.zeros(0, np.int64)
        )
        true = np.cumsum(sorted_truth)[last]
        return cls(true, last + 1 - true, int(truth.sum()), int((~truth).sum()))

    @property
    def sensitivity(self) -> Floats:
        return self.true / max(1, self.positives)

    @property
    def false_positive_rate(self) -> Floats:
        return self.false / max(1, self.negatives)

    @property
    def precision(self) -> Floats:
        return np.asarray(self.true / np.maximum(1, self.true + self.false), np.float64)

    @property
    def roc_auc(self) -> float:
        """Area under the ROC curve (Hanley and McNeil 1982), ties count half; NaN without points of both kinds."""
        if not (self.positives and self.negatives):
            return float("nan")
        x, y = np.append(0, self.false_positive_rate), np.append(0, self.sensitivity)
        return float(np.trapezoid(y, x))

    @property
    def average_precision(self) -> float:
        """Sum of precisions weighted by the growth of recall; NaN without positives."""
        if not self.positives:
            return float("nan")
        return float(np.sum(np.diff(self.sensitivity, prepend=0) * self.precision))


@dataclass(frozen=True, slots=True)
class Froc:
    """Lesions found and mean false positives per slide, at each of a number of thresholds, from high to low.

    Lesions and detections are groups of squares that share a side or a corner. A lesion is found when a detection
    touches it; a detection that touches none is a false positive.
    """

    sensitivity: Floats
    false_positives: Floats
    lesions: int

    @classmethod
    def of(cls, truths: Sequence[Bools], maps: Sequence[Floats]) -> Froc:
        """From a truth and a map ``(rows, columns)`` of each slide; NaN is below every threshold."""
        found = np.zeros(len(_LEVELS), np.int64)
        false = np.zeros(len(_LEVELS), np.int64)
        total = 0
        for truth, probabilities in zip(truths, maps, strict=True):
            lesions, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
            total += lesions - 1
            for place, level in enumerate(reversed(_LEVELS)):
                detected = np.nan_to_num(probabilities, nan=-1.0) >= level
                groups, numbers = cv2.connectedComponents(detected.astype(np.uint8), connectivity=8)
                both = detected & truth
                found[place] += len(np.unique(labels[both]))
                false[place] += groups - 1 - len(np.unique(numbers[both]))
        return cls(found / max(1, total), false / max(1, len(truths)), total)

    def at(self, false_positives: float) -> float:
        """The highest sensitivity with at most so many false positives per slide; NaN without lesions."""
        if not self.lesions:
            return float("nan")
        allowed = self.false_positives <= false_positives
        return float(self.sensitivity[allowed].max(initial=0.0))

    @property
    def score(self) -> float:
        """The mean of `at` over `FALSE_POSITIVES`, as CAMELYON16 scores."""
        return float(np.mean([self.at(number) for number in FALSE_POSITIVES]))
