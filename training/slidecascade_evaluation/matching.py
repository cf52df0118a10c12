"""Matches predicted and true cells: overlaps of label images, and pairs at an IoU threshold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]

# The thresholds of "mean AP" in the Data Science Bowl 2018 and COCO: 0.5, 0.55, ... 0.95.
MEAN_AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class MatchCounts:
    """True positives, false positives and false negatives at one IoU threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def average_precision(self) -> float:
        """TP / (TP + FN + FP); 1 when there was nothing to find and nothing was found."""
        total = self.true_positives + self.false_positives + self.false_negatives
        return self.true_positives / total if total else 1.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FN + FP); 1 when there was nothing to find and nothing was found."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else 1.0

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return MatchCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )


@dataclass(frozen=True)
class Overlap:
    """Pixels that every true instance shares with every predicted one.

    Attributes:
        intersection: ``(n_true, n_predicted)`` int64 pixels.
        truth_ids, predicted_ids: the labels of rows and columns, ascending.
        truth_areas, predicted_areas: pixels of each instance, including those on background.
    """

    intersection: npt.NDArray[np.int64]
    truth_ids: npt.NDArray[np.int64]
    predicted_ids: npt.NDArray[np.int64]
    truth_areas: npt.NDArray[np.int64]
    predicted_areas: npt.NDArray[np.int64]

    @cached_property
    def union(self) -> npt.NDArray[np.int64]:
        """``(n_true, n_predicted)`` pixels of either."""
        union: npt.NDArray[np.int64] = self.truth_areas[:, None] + self.predicted_areas - self.intersection
        return union

    @cached_property
    def iou(self) -> npt.NDArray[np.float64]:
        """``(n_true, n_predicted)`` intersection over union."""
        iou: npt.NDArray[np.float64] = self.intersection / self.union
        return iou


def overlap_of(truth: Labels, predicted: Labels) -> Overlap:
    """Compare two label images ``(H, W)``; 0 is background, the numbers need not be consecutive.

    Raises:
        ValueError: The images differ in shape.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"Label images of shapes {truth.shape} and {predicted.shape} cannot be compared.")
    rows, truth_ids = _dense(truth)
    columns, predicted_ids = _dense(predicted)
    shape = len(truth_ids) + 1, len(predicted_ids) + 1
    pixels = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
    return Overlap(
        intersection=pixels[1:, 1:],
        truth_ids=truth_ids,
        predicted_ids=predicted_ids,
        truth_areas=pixels.sum(axis=1)[1:],
        predicted_areas=pixels.sum(axis=0)[1:],
    )


def _dense(labels: Labels) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Flat labels renumbered without gaps, and the original labels; 0 stays background."""
    is_present = np.bincount(labels.ravel(), minlength=1) > 0
    is_present[0] = True
    return (np.cumsum(is_present) - 1)[labels.ravel()], np.flatnonzero(is_present)[1:].astype(np.int64)


def iou_matrix(truth: Labels, predicted: Labels) -> npt.NDArray[np.float64]:
    """`Overlap.iou` of two label images ``(H, W)``: ``(n_true, n_predicted)`` in ascending order of label.

    Raises:
        ValueError: The images differ in shape.
    """
    return overlap_of(truth, predicted).iou


def match(iou: npt.NDArray[np.float64], threshold: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pair instances one to one at an IoU of at least `threshold`, which is at least 0.5.

    An IoU above 0.5 is possible with one partner only, so no assignment problem arises. At exactly 0.5 two
    halves may match one cell: then the first is its partner.

    Returns:
        Rows and columns of the pairs.

    Raises:
        ValueError: The threshold is below 0.5.
    """
    if threshold < 0.5:
        raise ValueError(f"Threshold {threshold} is below 0.5, where matches are not unique: use 0.5 or more.")
    if not iou.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    rows = np.flatnonzero(iou.max(axis=1) >= threshold)
    columns, first = np.unique(iou[rows].argmax(axis=1), return_index=True)
    return rows[first], columns


def count_matches(iou: npt.NDArray[np.float64], threshold: float) -> MatchCounts:
    """Count the pairs of `match`, and the unmatched instances.

    Raises:
        ValueError: The threshold is below 0.5.
    """
    matched = len(match(iou, threshold)[0])
    return MatchCounts(matched, iou.shape[1] - matched, iou.shape[0] - matched)
