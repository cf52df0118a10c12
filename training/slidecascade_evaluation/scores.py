"""Figures of merit for instances. An image has a `Tally` of counts, from which `Figures` are computed.

Over a set of images two aggregates are reported: the mean of the images' figures (as in the Data Science Bowl;
equal weight per image) and the figures of the summed tally (pooled; equal weight per cell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from slidecascade_evaluation.matching import (
    MEAN_AP_THRESHOLDS,
    Labels,
    MatchCounts,
    Overlap,
    count_matches,
    match,
    overlap_of,
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of merit in 0 to 1. An empty image with an empty prediction scores 1.

    Attributes:
        ap: AP at each of `MEAN_AP_THRESHOLDS`: TP / (TP + FN + FP), the score of the Data Science Bowl 2018.
        ap50, ap75, map: AP at IoU 0.5 and 0.75, and the mean of `ap`.
        precision, recall, f1: at IoU 0.5; F1 is 2 TP / (2 TP + FN + FP).
        dq, sq, pq: panoptic quality (Kirillov et al., CVPR 2019) at IoU 0.5: F1, the mean IoU of the pairs (0 when
            there are none), and their product.
        aji: aggregated Jaccard index (Kumar et al., IEEE TMI 2017): every true cell is paired with the predicted
        one of highest IoU, which may be paired repeatedly; unpaired predicted cells add to the union.
        dice: 2 |A and B| / (|A| + |B|) of the foregrounds.
    """

    ap: tuple[float, ...]
    ap50: float
    ap75: float
    map: float
    precision: float
    recall: float
    f1: float
    pq: float
    dq: float
    sq: float
    aji: float
    dice: float

    @classmethod
    def mean(cls, parts: Sequence[Figures]) -> Figures:
        """Averages each figure separately, so `pq` is the mean of products, not the product of means."""
        names = [field.name for field in fields(cls) if field.name != "ap"]
        ap = tuple(float(value) for value in np.mean([part.ap for part in parts], axis=0))
        return cls(ap=ap, **{name: float(np.mean([getattr(part, name) for part in parts])) for name in names})


@dataclass(frozen=True)
class Tally:
    """Counts from which the figures of one or more images are computed; tallies can be added.

    Attributes:
        counts: matches at each of `MEAN_AP_THRESHOLDS`.
        iou_sum: IoU of the pairs at 0.5, summed.
        joined, united: numerator and denominator of the aggregated Jaccard index in pixels.
        shared, total: pixels in both foregrounds, and of the two foregrounds added up.
    """

    counts: tuple[MatchCounts, ...]
    iou_sum: float
    joined: int
    united: int
    shared: int
    total: int

    def __add__(self, other: Tally) -> Tally:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Tally(counts, *(a + b for a, b in zip(astuple(self)[1:], astuple(other)[1:], strict=True)))

    @property
    def truth(self) -> int:
        return self.counts[0].true_positives + self.counts[0].false_negatives

    @property
    def predicted(self) -> int:
        return self.counts[0].true_positives + self.counts[0].false_positives

    @property
    def figures(self) -> Figures:
        half = self.counts[0]
        ap = tuple(counts.average_precision for counts in self.counts)
        empty = float(not self.truth and not self.predicted)
        sq = _ratio(self.iou_sum, half.true_positives, empty)
        return Figures(
            ap=ap,
            ap50=ap[0],
            ap75=ap[MEAN_AP_THRESHOLDS.index(0.75)],
            map=float(np.mean(ap)),
            precision=_ratio(half.true_positives, self.predicted, empty),
            recall=_ratio(half.true_positives, self.truth, empty),
            f1=half.f1,
            pq=half.f1 * sq,
            dq=half.f1,
            sq=sq,
            aji=_ratio(self.joined, self.united, 1.0),
            dice=_ratio(2 * self.shared, self.total, 1.0),
        )


def tally_of(truth: Labels, predicted: Labels, *, overlap: Overlap | None = None, unseen: int = 0) -> Tally:
    """The tally of one image.

    Args:
        truth, predicted: ``(H, W)`` labels, 0 is background.
        overlap: of the two, if already computed.
        unseen: predicted instances too small to have a pixel; they count as false positives.

    Raises:
        ValueError: The images differ in shape.
    """
    overlap = overlap or overlap_of(truth, predicted)
    extra = MatchCounts(0, unseen, 0)
    rows, columns = match(overlap.iou, MEAN_AP_THRESHOLDS[0])
    joined, united = _jaccard_pixels(overlap)
    in_truth, in_predicted = truth > 0, predicted > 0
    return Tally(
        counts=tuple(count_matches(overlap.iou, threshold) + extra for threshold in MEAN_AP_THRESHOLDS),
        iou_sum=float(overlap.iou[rows, columns].sum()),
        joined=joined,
        united=united,
        shared=int((in_truth & in_predicted).sum()),
        total=int(in_truth.sum()) + int(in_predicted.sum()),
    )


def foreground_dice(truth: Labels, predicted: Labels) -> float:
    """`Figures.dice` of two label images ``(H, W)``."""
    return tally_of(truth, predicted).figures.dice


def _jaccard_pixels(overlap: Overlap) -> tuple[int, int]:
    """Intersection and union of the aggregated Jaccard index."""
    alone = int(overlap.truth_areas.sum()), int(overlap.predicted_areas.sum())
    if not overlap.iou.size:
        return 0, sum(alone)
    best = overlap.iou.argmax(axis=1)
    meets = np.take_along_axis(overlap.intersection, best[:, None], axis=1)[:, 0] > 0
    rows, columns = np.flatnonzero(meets), best[meets]
    free = np.ones(len(overlap.predicted_ids), np.bool_)
    free[columns] = False
    united = (
        overlap.union[rows, columns].sum()
        + overlap.truth_areas[~meets].sum()
        + overlap.predicted_areas[free].sum()
    )
    return int(overlap.intersection[rows, columns].sum()), int(united)


def _ratio(numerator: float, denominator: float, otherwise: float) -> float:
    return numerator / denominator if denominator else otherwise


@dataclass(frozen=True)
class ClassTally:
    """Cells of one class over images; pairs are those at IoU 0.5, regardless of class.

    Attributes:
        truth: true cells of the class.
        found: true cells with a partner of any class.
        predicted: predicted cells of the class, less those paired with a true cell of no known class.
        agreed: pairs in which both cells are of the class.
    """

    truth: int = 0
    found: int = 0
    predicted: int = 0
    agreed: int = 0

    def __add__(self, other: ClassTally) -> ClassTally:
        return ClassTally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), where a true positive is found and of the right class."""
        return _ratio(2 * self.agreed, self.truth + self.predicted, 1.0)

    @property
    def precision(self) -> float:
        return _ratio(self.agreed, self.predicted, float(not self.truth))

    @property
    def recall(self) -> float:
        return _ratio(self.agreed, self.truth, float(not self.predicted))

    @property
    def found_share(self) -> float:
        """The share of true cells of the class that were found, regardless of the predicted class."""
        return _ratio(self.found, self.truth, 1.0)


def class_tally(
    iou: npt.NDArray[np.float64],
    *,
    truth: npt.NDArray[np.bool_],
    predicted: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
) -> ClassTally:
    """The tally of one class in one image.

    Args:
        iou: ``(n_true, n_predicted)``.
        truth: ``(n_true,)`` whether the cell is of the class.
        predicted: ``(n_predicted,)`` likewise.
        known: ``(n_true,)`` whether the cell's class is known.
    """
    rows, columns = match(iou, MEAN_AP_THRESHOLDS[0])
    judged = predicted.copy()
    judged[columns[~known[rows]]] = False
    return ClassTally(
        truth=int(truth.sum()),
        found=int(truth[rows].sum()),
        predicted=int(judged.sum()),
        agreed=int((truth[rows] & predicted[columns]).sum()),
    )


@dataclass(frozen=True)
class Accuracy:
    """The metrics of a model card."""

    images: int
    ap50: float  # per image, averaged over images
    ap50_pooled: float  # from the counts of all images together
    mean_ap: float  # averaged over IoU 0.5 to 0.95 and over images
    dice: float  # of the foreground, averaged over images

    @classmethod
    def of(cls, tallies: Sequence[Tally]) -> Accuracy:
        """From the tallies of at least one image."""
        mean = Figures.mean([tally.figures for tally in tallies])
        return cls(len(tallies), mean.ap50, pooled(tallies).figures.ap50, mean.map, mean.dice)


def measure(pairs: Sequence[tuple[Labels, Labels]]) -> Accuracy:
    """Accuracy of (truth, predicted) label images, each ``(H, W)``.

    Raises:
        ValueError: There are no images.
    """
    if not pairs:
        raise ValueError("There are no images to measure: check the split.")
    return Accuracy.of([tally_of(truth, predicted) for truth, predicted in pairs])


def pooled(tallies: Sequence[Tally]) -> Tally:
    """The sum of at least one tally."""
    total = tallies[0]
    for tally in tallies[1:]:
        total += tally
    return total
