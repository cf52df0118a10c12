"""Instance matching against cases small enough to count by hand."""

import numpy as np
import pytest

from slidecascade_evaluation.matching import MatchCounts, count_matches, iou_matrix
from slidecascade_evaluation.scores import foreground_dice, measure


def squares(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (20, 20)) -> np.ndarray:
    """Label image with box k, (top, left, bottom, right), filled with k + 1."""
    labels = np.zeros(shape, np.int32)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        labels[top:bottom, left:right] = number
    return labels


def test_iou_matrix_counts_pixels() -> None:
    """Two squares that share half of each have an IoU of a third, others have none."""
    truth = squares((0, 0, 4, 4), (10, 10, 14, 14))
    predicted = squares((0, 2, 4, 6))
    np.testing.assert_allclose(iou_matrix(truth, predicted), [[8 / 24], [0.0]])


def test_iou_matrix_agrees_with_sets_of_pixels() -> None:
    """The bincount equals intersections and unions taken pair by pair, gaps in the numbering included."""
    rng = np.random.default_rng(5)
    truth = rng.choice([0, 2, 3, 9], (30, 30)).astype(np.int32)
    predicted = rng.choice([0, 1, 7], (30, 30)).astype(np.int32)
    expected = [
        [((truth == t) & (predicted == p)).sum() / ((truth == t) | (predicted == p)).sum() for p in (1, 7)]
        for t in (2, 3, 9)
    ]
    np.testing.assert_allclose(iou_matrix(truth, predicted), expected)


def test_images_without_background_are_matched() -> None:
    """An image that one instance fills has that instance, not a background."""
    full = np.ones((4, 4), np.int32)
    np.testing.assert_allclose(iou_matrix(full, full), [[1.0]])


def test_images_of_different_size_are_refused() -> None:
    """Label images of different shapes raise rather than broadcast."""
    with pytest.raises(ValueError, match="cannot be compared"):
        iou_matrix(np.zeros((4, 4), np.int32), np.zeros((1, 4), np.int32))


def test_merged_cells_count_as_one_invention_and_two_misses() -> None:
    """A prediction that joins two equal cells matches neither above an IoU of one half."""
    truth = squares((0, 0, 4, 4), (0, 5, 4, 9))
    merged = squares((0, 0, 4, 9))
    assert count_matches(iou_matrix(truth, merged), 0.5) == MatchCounts(0, 1, 2)


def test_halves_of_a_cell_match_it_once() -> None:
    """Two predictions of IoU exactly one half with the same cell are one match."""
    truth = squares((0, 0, 4, 4))
    halves = squares((0, 0, 4, 2), (0, 2, 4, 4))
    assert count_matches(iou_matrix(truth, halves), 0.5) == MatchCounts(1, 1, 0)


def test_cells_in_halves_are_matched_once_each_way() -> None:
    """A true cell predicted in halves and two true halves predicted as one cell are two matches, not three."""
    truth = squares((0, 0, 4, 4), (10, 0, 14, 2), (10, 2, 14, 4))
    predicted = squares((0, 0, 4, 2), (0, 2, 4, 4), (10, 0, 14, 4))
    assert count_matches(iou_matrix(truth, predicted), 0.5) == MatchCounts(2, 1, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_pairs_are_an_optimal_assignment(seed: int) -> None:
    """Above one half, scipy's assignment of most pairs finds as many as the one partner each cell can have."""
    pytest.importorskip("scipy", reason="the [train] extra is not installed")
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    truth = squares(*((top, left, top + 4, left + 4) for top in range(0, 20, 5) for left in range(0, 20, 5)))
    predicted = np.roll(truth, tuple(rng.integers(0, 2, 2)), axis=(0, 1))
    predicted[rng.random(predicted.shape) < 0.15] = 0
    iou = iou_matrix(truth, predicted)
    for threshold in (0.5, 0.6, 0.7):
        allowed = iou >= threshold
        rows, columns = linear_sum_assignment(allowed, maximize=True)
        assert count_matches(iou, threshold).true_positives == allowed[rows, columns].sum()


def test_low_thresholds_are_refused() -> None:
    """Below one half a cell could have several partners, so the threshold is an error."""
    with pytest.raises(ValueError, match="not unique"):
        count_matches(np.ones((1, 1)), 0.4)


def test_empty_images_score_one_when_nothing_was_invented() -> None:
    """An image without cells is right when nothing is predicted and wrong when something is."""
    empty = squares()
    invented = squares((0, 0, 4, 4))
    assert measure([(empty, empty)]).ap50 == 1.0
    assert measure([(empty, invented)]).ap50 == 0.0
    assert foreground_dice(empty, empty) == 1.0
    assert foreground_dice(empty, invented) == 0.0


def test_measure_averages_over_images_and_pools_over_cells() -> None:
    """A perfect image of one cell and a missed image of three average to 1/2 and pool to 1/4."""
    perfect = squares((0, 0, 4, 4))
    three = squares((0, 0, 4, 4), (6, 6, 10, 10), (12, 12, 16, 16))
    accuracy = measure([(perfect, perfect), (three, squares())])
    assert accuracy.images == 2
    assert accuracy.ap50 == 0.5
    assert accuracy.ap50_pooled == 0.25
    assert accuracy.mean_ap == 0.5
    assert accuracy.dice == 0.5


def test_mean_ap_falls_with_loose_outlines() -> None:
    """An IoU of 0.64 counts at the thresholds 0.5, 0.55 and 0.6 only."""
    accuracy = measure([(squares((0, 0, 10, 10)), squares((0, 0, 8, 8)))])
    assert accuracy.ap50 == 1.0
    assert accuracy.mean_ap == pytest.approx(0.3)


def test_no_images_are_an_error() -> None:
    """An empty split is refused instead of scoring NaN."""
    with pytest.raises(ValueError, match="no images"):
        measure([])
