"""Metrics of classifiers, by scikit-learn; NaN where undefined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidecascade_training.calibration import Calibration, calibration_of

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one class against the rest; NaN if the denominator is 0."""

    name: str
    examples: int
    precision: float
    recall: float
    auc: float


@dataclass(frozen=True, slots=True)
class Figures:
    """`confusion` int64 ``(C, C)``: rows are the truth, columns the predictions."""

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
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    answers, numbers = np.argmax(probabilities, axis=1), np.arange(len(names))
    confusion: Labels = confusion_matrix(truth, answers, labels=numbers).astype(np.int64)
    precision, recall, _, counts = precision_recall_fscore_support(
        truth, answers, labels=numbers, zero_division=np.nan
    )
    classes = tuple(
        ClassFigures(
            name,
            examples=int(counts[index]),
            precision=float(precision[index]),
            recall=float(recall[index]),
            auc=roc_auc(probabilities[:, index], truth == index),
        )
        for index, name in enumerate(names)
    )
    return Figures(confusion, classes, calibration_of(probabilities, truth))


def roc_auc(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve; NaN where all examples are positive, or none."""
    from sklearn.metrics import roc_auc_score

    if is_positive.all() or not is_positive.any():
        return float("nan")
    return float(roc_auc_score(is_positive, scores))


def roc_curve(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); positives and others, one each."""
    from sklearn import metrics

    false, true, _ = metrics.roc_curve(is_positive, scores)
    return np.asarray(false, np.float64), np.asarray(true, np.float64)


def worst_mistakes(probabilities: npt.NDArray[np.float32], truth: Labels, count: int) -> Labels:
    """Misclassified rows, highest probability first, at most `count`."""
    answers = np.argmax(probabilities, axis=1)
    wrong = np.flatnonzero(answers != truth)
    certainty = probabilities[wrong, answers[wrong]]
    rows: Labels = wrong[np.argsort(-certainty, kind="stable")][:count]
    return rows


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
