"""Figures of merit against StarDist, torchmetrics and slow oracles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracles
from found_cells import found_cells
from slidecascade_evaluation.matching import MEAN_AP_THRESHOLDS, count_matches, iou_matrix
from slidecascade_evaluation.scores import ClassTally, Figures, class_tally, pooled, tally_of

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "matching.json").read_text(encoding="utf-8")
)
SEEDS = sorted(map(int, GOLDEN["seeds"]))


@pytest.mark.parametrize("seed", SEEDS)
def test_figures_are_those_of_stardist(seed: int) -> None:
    """TP, FP, FN and AP at every threshold, precision, recall, F1 and PQ as ``stardist.matching`` gave them."""
    theirs = GOLDEN["seeds"][str(seed)]["stardist"]
    tally = tally_of(*found_cells(seed))
    figures = tally.figures
    assert [counts.true_positives for counts in tally.counts] == theirs["tp"]
    assert [counts.false_positives for counts in tally.counts] == theirs["fp"]
    assert [counts.false_negatives for counts in tally.counts] == theirs["fn"]
    assert figures.ap == pytest.approx(theirs["ap"], abs=1e-6)
    for name in ("precision", "recall", "f1", "sq", "pq"):
        assert getattr(figures, name) == pytest.approx(theirs[name], abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_panoptic_quality_is_that_of_torchmetrics(seed: int) -> None:
    """PQ, SQ and DQ as torchmetrics' ``PanopticQuality`` gave them with cells as things."""
    theirs = GOLDEN["seeds"][str(seed)]["torchmetrics"]
    figures = tally_of(*found_cells(seed)).figures
    assert {name: getattr(figures, name) for name in theirs} == pytest.approx(theirs, abs=1e-6)


def test_stardist_still_says_so() -> None:
    """Where StarDist is installed, on images that the pinned figures do not hold."""
    stardist = pytest.importorskip("stardist.matching", reason="StarDist is not installed")
    for seed in range(100, 110):
        truth, predicted = found_cells(seed)
        theirs = stardist.matching(truth, predicted, thresh=list(MEAN_AP_THRESHOLDS))
        figures = tally_of(truth, predicted).figures
        assert figures.ap == pytest.approx([one.accuracy for one in theirs])
        assert (figures.f1, figures.pq) == pytest.approx((theirs[0].f1, theirs[0].panoptic_quality))


def test_torchmetrics_still_says_so() -> None:
    """Where torchmetrics is installed, on images that the pinned figures do not hold."""
    detection = pytest.importorskip("torchmetrics.detection", reason="torchmetrics is not installed")
    torch = pytest.importorskip("torch")
    for seed in range(100, 105):
        truth, predicted = found_cells(seed)
        metric = detection.PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
        both = [
            torch.from_numpy(np.stack([labels > 0, labels], axis=-1)[None].astype(np.int64))
            for labels in (predicted, truth)
        ]
        figures = tally_of(truth, predicted).figures
        theirs = metric(*both).reshape(-1, 3)[0].tolist()
        assert (figures.pq, figures.sq, figures.dq) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_matching_finds_the_most_pairs(seed: int) -> None:
    """No assignment of cells has more pairs than the direct look-up, ties at one half included."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, (4, 4)).astype(np.int32)
    predicted = np.where(rng.random((4, 4)) < 0.7, truth, rng.integers(0, 5, (4, 4))).astype(np.int32)
    iou = iou_matrix(truth, predicted)
    for threshold in (0.5, 0.75):
        assert count_matches(iou, threshold).true_positives == oracles.most_pairs(iou, threshold)


@pytest.mark.parametrize("seed", SEEDS)
def test_aggregated_jaccard_index_is_that_of_its_paper(seed: int) -> None:
    """The index equals sets of pixels joined cell by cell."""
    truth, predicted = found_cells(seed)
    assert tally_of(truth, predicted).figures.aji == pytest.approx(oracles.jaccard_cell_by_cell(truth, predicted))


def test_a_perfect_answer_scores_one_everywhere() -> None:
    """Every figure is 1 for an image compared with itself, under other numbers."""
    truth, _ = found_cells(0)
    figures = tally_of(truth, (truth * 3).astype(np.int32)).figures
    assert figures == Figures.mean([figures])
    assert {*figures.ap, figures.f1, figures.pq, figures.aji, figures.dice, figures.recall} == {1.0}


def test_nothing_to_find_scores_one_or_nought() -> None:
    """An empty image found empty is right in every figure, one with inventions wrong in every figure."""
    empty = np.zeros((8, 8), np.int32)
    some = empty.copy()
    some[2:4, 2:4] = 1
    names = ("ap50", "map", "f1", "pq", "sq", "dq", "precision", "recall", "aji", "dice")
    assert {getattr(tally_of(empty, empty).figures, name) for name in names} == {1.0}
    assert {getattr(tally_of(empty, some).figures, name) for name in names} == {0.0}
    assert {getattr(tally_of(some, empty).figures, name) for name in names} == {0.0}


def test_cells_without_a_pixel_are_inventions() -> None:
    """A predicted cell too small to be drawn still counts against the pipeline."""
    truth, predicted = found_cells(1)
    plain, more = tally_of(truth, predicted), tally_of(truth, predicted, unseen=2)
    assert more.predicted == plain.predicted + 2
    assert more.figures.f1 < plain.figures.f1


def test_pooled_figures_are_those_of_images_side_by_side() -> None:
    """Adding tallies is the same as measuring one image that shows all of them."""
    pairs = [found_cells(seed) for seed in (2, 3)]
    joined = [
        np.hstack([first, np.where(second > 0, second + 1000, 0)]) for first, second in zip(*pairs, strict=True)
    ]
    apart = pooled([tally_of(*pair) for pair in pairs]).figures
    together = tally_of(*(labels.astype(np.int32) for labels in joined)).figures
    assert apart.ap == pytest.approx(together.ap)
    assert (apart.pq, apart.aji, apart.dice) == pytest.approx((together.pq, together.aji, together.dice))


def test_a_class_is_right_when_cell_and_class_are() -> None:
    """Of three true cells of a class one is found and named right, one named wrong and one missed."""
    iou = np.array([[0.9, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0.2, 0], [0, 0, 0, 0.7]])
    tally = class_tally(
        iou,
        truth=np.array([True, True, True, False]),
        predicted=np.array([True, False, True, True]),
        known=np.array([True, True, True, False]),
    )
    # The fourth prediction meets a cell of unknown class: it is neither right nor wrong.
    assert tally == ClassTally(truth=3, found=2, predicted=2, agreed=1)
    assert (tally.precision, tally.recall, tally.f1) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert tally.found_share == pytest.approx(2 / 3)
