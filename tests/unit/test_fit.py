"""The training loop: what it keeps, when it stops, and that a resumed run is the unbroken one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slidecascade.errors import TrainingFailedError, UnusableDataError
from slidecascade_training.checkpoint import Checkpoints, History
from slidecascade_training.fit import Course, Pixels, compile_network, fit
from slidecascade_training.prefetch import Batch
from slidecascade_training.schedule import RatePlan
from slidecascade_training.timelimit import TimeLimit

pytest.importorskip("tensorflow", reason="the [train] extra is not installed")

COURSE = Course(steps=7, epoch_steps=3, kept="last", score="accuracy")
PLAN = RatePlan(kind="cosine", highest=0.05, steps=7)
PIXELS = Pixels(1 / 255)


def _model() -> Any:
    import keras

    keras.utils.set_random_seed(3)
    image = keras.Input((4, 4, 3))
    tensor = keras.layers.Dropout(0.3)(keras.layers.Flatten()(image))
    network = keras.Model(image, keras.layers.Dense(2, activation="softmax")(tensor))
    metrics = [keras.metrics.CategoricalAccuracy(name="score")]
    return compile_network(network, "categorical_crossentropy", PLAN, weight_decay=1e-3, metrics=metrics)


def _batch(step: int) -> Batch:
    rng = np.random.default_rng([1, step])
    images = rng.integers(0, 255, (4, 4, 4, 3)).astype(np.uint8)
    return Batch(images, np.eye(2, dtype=np.float32)[rng.integers(0, 2, 4)], np.ones(4, np.float32))


def _fit(folder: Path, draw: Any = _batch, course: Course = COURSE, **more: Any) -> tuple[Any, History]:
    model = _model()
    return model, fit(model, draw, course, folder, pixels=PIXELS, plan=PLAN, **more)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    """Weights, optimiser and the state of dropout come from the checkpoint of the epoch before the failure."""

    def broken(step: int) -> Batch:
        if step == 5:
            raise UnusableDataError("A file is damaged.")
        return _batch(step)

    whole, history = _fit(tmp_path / "whole")
    with pytest.raises(UnusableDataError, match=r"^A file is damaged\.$"):
        _fit(tmp_path / "cut", broken)
    again, resumed = _fit(tmp_path / "cut")
    assert [epoch.steps for epoch in history.epochs] == [3, 6, 7]
    assert [replace(epoch, seconds=0) for epoch in resumed.epochs] == [
        replace(epoch, seconds=0) for epoch in history.epochs
    ]
    values = [[*model.variables, *model.optimizer.variables] for model in (whole, again)]
    for ours, theirs in zip(*values, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_the_first_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """At that step: no later batch is requested, and the last checkpoint is the one before it."""
    asked = []

    def poisoned(step: int) -> Batch:
        asked.append(step)
        batch = _batch(step)
        return replace(batch, images=np.full((4, 4, 4, 3), np.inf, np.float32)) if step == 4 else batch

    with pytest.raises(TrainingFailedError, match=r"loss became (nan|inf) in epoch 2; the checkpoint of epoch 1"):
        _fit(tmp_path, poisoned)
    assert asked == [0, 1, 2, 3, 4]
    history = Checkpoints(tmp_path / "checkpoints").restore_last(_model())
    assert history.steps == 3


@pytest.mark.parametrize("kept", ["best", "last"])
def test_a_run_stops_early_and_returns_the_epoch_it_keeps(tmp_path: Path, kept: Any) -> None:
    """After `patience` epochs without a better one; only the best and the last checkpoint stay."""
    course = Course(steps=60, epoch_steps=1, patience=2, kept=kept, score="accuracy")

    def validation() -> list[Batch]:
        return [_batch(1000)]

    def opposed(_step: int) -> Batch:
        """Learns the opposite of what is validated on, so that the first epoch stays the best."""
        batch = _batch(1000)
        return replace(batch, targets=1 - batch.targets)

    model, history = _fit(tmp_path, opposed, course, validation=validation)
    assert (history.best, len(history.epochs)) == (1, 3)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["epoch-00001.npz", "epoch-00003.npz"]
    other = _model()
    Checkpoints(tmp_path / "checkpoints").restore(other, 1 if kept == "best" else 3)
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_cut_by_a_time_limit_goes_on_to_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    """The limit ends in the middle of an epoch with a checkpoint; one that is over does nothing."""
    whole, _ = _fit(tmp_path / "whole")
    readings = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    limit = TimeLimit(5.0, clock=lambda: next(readings))
    _, cut = _fit(tmp_path / "cut", limit=limit)
    assert 3 < cut.steps < 6
    _, same = _fit(tmp_path / "cut", limit=TimeLimit(0.0, clock=lambda: 0.0))
    assert same == cut
    _, unstarted = _fit(tmp_path / "none", limit=TimeLimit(0.0, clock=lambda: 0.0))
    assert unstarted.steps == 0
    again, history = _fit(tmp_path / "cut")
    assert history.steps == COURSE.steps
    values = [[*model.variables, *model.optimizer.variables] for model in (whole, again)]
    for ours, theirs in zip(*values, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
