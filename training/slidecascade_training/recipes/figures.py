"""What a classifier's answers are worth. Numpy only; every figure says what it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

BINS = 15
"""Bins of the calibration error: those of Guo et al. (2017)."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one class against the rest; NaN where there is nothing to divide by."""

    name: str
    examples: int
    precision: float
    recall: float
    auc: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """For each bin of the highest probability: how many answers, their mean probability, how many were right."""

    counts: Labels
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017): the mean gap, weighted by the answers in each bin."""
        if not self.counts.sum():
            return float("nan")
        filled = self.counts > 0
        gaps = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())


@dataclass(frozen=True, slots=True)
class Figures:
    """`confusion` int64 ``(C, C)``: rows are the truth, columns the answers."""

    confusion: Labels
    classes: tuple[ClassFigures, ...]
    calibration: Calibration

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have examples."""
        return _mean([item.recall for item in self.classes])

    @property
    def auc(self) -> float:
        """Mean over the classes of the area under the ROC curve, each against the rest."""
        return _mean([item.auc for item in self.classes])


def figures_of(probabilities: npt.NDArray[np.float32], truth: Labels, names: tuple[str, ...]) -> Figures:
    """From probabilities ``(N, C)`` and class numbers ``(N,)``."""
    count = len(names)
    answers = np.argmax(probabilities, axis=1)
    confusion = np.bincount(truth * count + answers, minlength=count**2).reshape(count, count).astype(np.int64)
    right = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        precision, recall = right / confusion.sum(axis=0), right / confusion.sum(axis=1)
    classes = tuple(
        ClassFigures(
            name,
            examples=int(confusion[index].sum()),
            precision=float(precision[index]),
            recall=float(recall[index]),
            auc=roc_auc(probabilities[:, index], truth == index),
        )
        for index, name in enumerate(names)
    )
    return Figures(confusion, classes, calibration_of(probabilities, truth))


def roc_auc(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half (Mann-Whitney)."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    ranks = (ends - (sizes - 1) / 2)[group]
    return float((ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def roc_curve(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    hits = is_positive[order]
    last_of_value = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(hits)[last_of_value] / max(1, hits.sum())
    false = np.cumsum(~hits)[last_of_value] / max(1, (~hits).sum())
    return np.append(0.0, false), np.append(0.0, true)


def calibration_of(probabilities: npt.NDArray[np.float32], truth: Labels) -> Calibration:
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


def worst_mistakes(probabilities: npt.NDArray[np.float32], truth: Labels, count: int) -> Labels:
    """Rows answered wrong, the most certain first, at most `count`."""
    answers = np.argmax(probabilities, axis=1)
    wrong = np.flatnonzero(answers != truth)
    certainty = probabilities[wrong, answers[wrong]]
    rows: Labels = wrong[np.argsort(-certainty, kind="stable")][:count]
    return rows


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
