"""The parts of a training run: augmentation, schedules, figures, the event log, checkpoints' files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from slidecascade.errors import InvalidRequestError
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_training.checkpoint import Epoch, History
from slidecascade_training.eventlog import EventLog
from slidecascade_training.recipes import augment
from slidecascade_training.recipes.augment import Augmentation, view_of
from slidecascade_training.recipes.figures import figures_of, roc_auc, roc_curve, worst_mistakes
from slidecascade_training.recipes.rate import advised
from slidecascade_training.recipes.samples import target_maps
from slidecascade_training.recipes.settings import RANGE_TEST, RunSettings
from slidecascade_training.recipes.table import find_recipe
from slidecascade_training.schedule import RatePlan

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="module")
def tissue() -> augment.Image:
    return render(TissueOptions(seed=3, mpp=0.25), width_px=96, height_px=96).image


def test_a_view_is_a_function_of_its_generator(tissue: augment.Image) -> None:
    """The same seed gives the same pixels, another seed others; size and type stay."""
    views = [view_of(tissue, np.random.default_rng(seed), augment.STANDARD)[0] for seed in (1, 1, 2)]
    assert (views[0] == views[1]).all()
    assert (views[0] != views[2]).any()
    assert views[0].shape == tissue.shape
    assert views[0].dtype == np.uint8


def test_nothing_turned_on_changes_nothing(tissue: augment.Image) -> None:
    """And stain of no strength is the identity but for rounding."""
    assert (view_of(tissue, np.random.default_rng(1), augment.NONE)[0] == tissue).all()
    same = augment.restained(tissue, np.random.default_rng(1), 0.0)
    assert np.abs(same.astype(int) - tissue).max() <= 1


def test_stain_varies_within_bounds(tissue: augment.Image) -> None:
    """Views differ in colour, tissue stays darker than glass."""
    means = [augment.restained(tissue, np.random.default_rng(seed), 0.25).mean(axis=(0, 1)) for seed in range(8)]
    assert np.std(means, axis=0).max() > 2
    assert np.abs(np.mean(means, axis=0) - tissue.mean(axis=(0, 1))).max() < 15


def test_labels_move_with_their_image() -> None:
    """Turned, bent and rotated the same way: a disc and its mask still cover each other."""
    rows, columns = np.mgrid[:96, :96]
    disc = (np.hypot(rows - 30, columns - 60) < 18).astype(np.uint8) * np.uint8(255)
    image = np.repeat(disc[..., None], 3, axis=2)
    bending = Augmentation(rotation_deg=40, stain=0, blur_px=0, elastic_px=4)
    for seed in range(12):
        view, labels = view_of(image, np.random.default_rng(seed), bending, labels=image[..., :2])
        assert labels is not None
        # OpenCV interpolates two channels and three by different code.
        assert np.abs(view[..., :2].astype(int) - labels).max() <= 8
    assert (view != image).any()


def test_target_maps_part_touching_nuclei() -> None:
    """Foreground is every nucleus, interior the middle of each: two that touch have two interiors."""
    rows, columns = np.mgrid[:64, :64]
    labels = np.zeros((64, 64), np.int32)
    labels[np.hypot(rows - 30, columns - 20) < 11] = 1
    labels[np.hypot(rows - 30, columns - 41) < 11] = 2
    maps = target_maps(labels)
    assert ((maps[..., 0] > 0) == (labels > 0)).all()
    assert (maps[30, [20, 41], 1] == 255).all()
    assert (maps[30, 29:33, 1] == 0).all()


@pytest.mark.parametrize("kind", ["constant", "cosine", "cyclical", "range-test"])
def test_schedules_rise_and_fall_as_they_say(kind: str) -> None:
    """The Keras form gives the numbers of the plain form, none above the highest."""
    pytest.importorskip("keras", reason="the [train] extra is not installed")
    plan = RatePlan(kind=kind, highest=0.01, steps=100)  # type: ignore[arg-type]  # the parameter is one of the names
    plain = np.array([plan.rate_at(step) for step in range(101)])
    compiled = plan.as_keras()
    assert [float(compiled(step)) for step in (0, 1, 12, 50, 99)] == pytest.approx(
        plain[[0, 1, 12, 50, 99]].tolist(), rel=1e-4
    )
    assert plain.max() <= 0.01 * (1 + 1e-9)
    assert plain.min() > 0
    if kind == "cyclical":
        assert ((plain[1:-1] >= plain[:-2]) & (plain[1:-1] > plain[2:])).sum() == 4
    if kind == "cosine":
        assert plain[0] < 0.001 < plain[5] > plain[50] > plain[99]


def test_figures_agree_with_their_definitions() -> None:
    """Confusion, precision, recall, and the area under the curve as the share of pairs in the right order."""
    generator = np.random.default_rng(4)
    truth = generator.integers(0, 3, 200)
    logits = generator.normal(size=(200, 3)) + 1.2 * np.eye(3)[truth]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).round(2).astype(np.float32)
    figures = figures_of(probabilities, truth, ("a", "b", "c"))
    answers = probabilities.argmax(axis=1)
    assert figures.accuracy == pytest.approx((answers == truth).mean())
    for index, item in enumerate(figures.classes):
        assert item.recall == pytest.approx((answers[truth == index] == index).mean())
        assert item.precision == pytest.approx((truth[answers == index] == index).mean())
        scores = probabilities[:, index].astype(float)
        pairs = scores[truth == index][:, None] - scores[truth != index][None]
        assert item.auc == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
        false, true = roc_curve(probabilities[:, index], truth == index)
        assert np.trapezoid(true, false) == pytest.approx(item.auc)
    rows = worst_mistakes(probabilities, truth, 5)
    assert (answers[rows] != truth[rows]).all()
    assert (np.diff(probabilities[rows].max(axis=1)) <= 0).all()


def test_calibration_error_is_the_gap_between_saying_and_being_right() -> None:
    """Always saying 0.9 and being right half of the time is off by 0.4; a class without examples has none."""
    probabilities = np.tile(np.array([[0.9, 0.1, 0.0]], np.float32), (100, 1))
    figures = figures_of(probabilities, np.arange(100) % 2, ("a", "b", "c"))
    assert figures.calibration.error == pytest.approx(0.4)
    assert math.isnan(figures.classes[2].auc)
    assert math.isnan(figures.classes[2].recall)
    assert figures.balanced_accuracy == pytest.approx(0.5)
    assert math.isnan(roc_auc(np.zeros(3), np.ones(3, np.bool_)))


def test_early_stopping_counts_from_the_best_epoch() -> None:
    """Patience 0 never stops."""

    def epoch(loss: float) -> Epoch:
        return Epoch(steps=1, loss=1.0, score=0.5, val_loss=loss, val_score=0.5, rate=0.1, seconds=1)

    history = History(tuple(epoch(loss) for loss in (3.0, 1.0, 2.0, 1.0)))
    assert history.best == 2
    assert history.is_stale(2)
    assert not history.is_stale(3)
    assert not history.is_stale(0)


def test_the_advised_rate_is_below_the_one_that_diverges() -> None:
    """A tenth of the rate with the lowest loss."""
    rates = np.logspace(-6, 0, 61)
    losses = np.where(rates < 1e-2, 1 - 0.1 * np.log10(rates / 1e-6), 5.0)
    assert advised(rates, losses) == pytest.approx(8e-4, rel=0.1)


def test_tensorboard_reads_the_event_log(tmp_path: Path) -> None:
    """TensorFlow's own reader checks the checksums and finds the curves."""
    pytest.importorskip("tensorflow", reason="the [train] extra is not installed")
    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    with EventLog(tmp_path / "events") as log:
        log.write(1, {"loss/train": 0.5, "rate": 1e-3})
        log.write(300, {"loss/train": 0.25})
    (path,) = (tmp_path / "events").iterdir()
    assert "tfevents" in path.name
    events = [event_pb2.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert events[0].file_version == "brain.Event:2"
    assert [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value] == [
        (1, "loss/train", 0.5),
        (1, "rate", pytest.approx(1e-3)),
        (300, "loss/train", 0.25),
    ]


def test_a_run_begins_where_its_range_test_was(tmp_path: Path) -> None:
    """The curve that advised the rate may lie in the run's folder; anything else is not touched."""
    settings = RunSettings.of(find_recipe("tiny-classifier"), tmp_path / "data")
    for name in RANGE_TEST:
        (tmp_path / name).write_bytes(b"")
    settings.claim(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*RANGE_TEST, "run.json"}
    (tmp_path / "run.json").unlink()
    (tmp_path / "letter.txt").write_bytes(b"")
    with pytest.raises(InvalidRequestError, match="contains no run"):
        settings.claim(tmp_path)
