"""How well predicted instances match true ones: IoU matrix, average precision, Dice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]

# The thresholds of "mean AP" in the Data Science Bowl 2018 and COCO: 0.5, 0.55, ... 0.95.
MEAN_AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class MatchCounts:
    """Instances matched, invented and missed at one IoU threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def average_precision(self) -> float:
        """TP / (TP + FN + FP); 1 when there was nothing to find and nothing was found."""
        total = self.true_positives + self.false_positives + self.false_negatives
        return self.true_positives / total if total else 1.0

    def __add__(self, other: "MatchCounts") -> "MatchCounts":
        return MatchCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )


def iou_matrix(truth: Labels, predicted: Labels) -> npt.NDArray[np.float64]:
    """Intersection over union of every true instance with every predicted one.

    Args:
        truth: ``(H, W)`` labels, 0 is background; the numbers need not be consecutive.
        predicted: ``(H, W)`` labels likewise.

    Returns:
        ``(n_true, n_predicted)``, rows and columns in ascending order of label.

    Raises:
        ValueError: The images differ in shape.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"Label images of shapes {truth.shape} and {predicted.shape} cannot be compared.")
    rows, n_rows = _dense(truth)
    columns, n_columns = _dense(predicted)
    overlap = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    overlap = overlap.reshape(n_rows, n_columns)
    union = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0, keepdims=True) - overlap
    iou: npt.NDArray[np.float64] = overlap[1:, 1:] / union[1:, 1:]
    return iou


def _dense(labels: Labels) -> tuple[npt.NDArray[np.intp], int]:
    """Flat labels with the gaps in the numbering closed, and one more than the highest; 0 stays background."""
    is_present = np.bincount(labels.ravel(), minlength=1) > 0
    is_present[0] = True
    return (np.cumsum(is_present) - 1)[labels.ravel()], int(is_present.sum())


def count_matches(iou: npt.NDArray[np.float64], threshold: float) -> MatchCounts:
    """Match instances one to one at an IoU threshold of at least 0.5.

    An IoU above 0.5 can hold with one partner only, so no assignment problem needs solving; pairs at exactly
    0.5 may tie and count once.

    Raises:
        ValueError: The threshold is below 0.5.
    """
    if threshold < 0.5:
        raise ValueError(
            f"Threshold {threshold} is below 0.5, where matches are no longer unique; use 0.5 or more."
        )
    is_match = iou >= threshold
    matched = int(min(is_match.any(axis=1).sum(), is_match.any(axis=0).sum()))
    return MatchCounts(matched, iou.shape[1] - matched, iou.shape[0] - matched)


def foreground_dice(truth: Labels, predicted: Labels) -> float:
    """2 |A and B| / (|A| + |B|) of the two foregrounds; 1 when both are empty."""
    in_truth, in_predicted = truth > 0, predicted > 0
    total = int(in_truth.sum()) + int(in_predicted.sum())
    return 2.0 * int((in_truth & in_predicted).sum()) / total if total else 1.0


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over a set of images; AP is TP / (TP + FN + FP)."""

    images: int
    ap50: float  # per image, averaged over images
    ap50_pooled: float  # from the counts of all images together
    mean_ap: float  # averaged over IoU 0.5 to 0.95 and over images
    dice: float  # of the foreground, averaged over images


def measure(pairs: Sequence[tuple[Labels, Labels]]) -> Accuracy:
    """Accuracy of (truth, predicted) label images, each ``(H, W)``.

    Raises:
        ValueError: There are no images.
    """
    if not pairs:
        raise ValueError("There are no images to measure; check the split.")
    matrices = [iou_matrix(truth, predicted) for truth, predicted in pairs]
    at_half = [count_matches(matrix, 0.5) for matrix in matrices]
    means = [
        np.mean([count_matches(matrix, threshold).average_precision for threshold in MEAN_AP_THRESHOLDS])
        for matrix in matrices
    ]
    return Accuracy(
        images=len(pairs),
        ap50=float(np.mean([counts.average_precision for counts in at_half])),
        ap50_pooled=sum(at_half, MatchCounts(0, 0, 0)).average_precision,
        mean_ap=float(np.mean(means)),
        dice=float(np.mean([foreground_dice(truth, predicted) for truth, predicted in pairs])),
    )
