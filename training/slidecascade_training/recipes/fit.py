"""Training: epochs with checkpoints, early stopping, a stop at the first loss that is no number."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from slidecascade.cores import usable_cores
from slidecascade.errors import SlideCascadeError, TrainingFailedError
from slidecascade_training.recipes.checkpoint import Checkpoints, Epoch, History
from slidecascade_training.recipes.eventlog import EventLog
from slidecascade_training.recipes.samples import Draw, DrawCrop, DrawTile, TrainingSet, batches
from slidecascade_training.recipes.schedule import RatePlan
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe

_BAR_WIDTH: Final = 30
_STDERR: Final = 2
SCORES: Final[Mapping[str, str]] = MappingProxyType({"classify": "accuracy", "segment": "Dice"})
"""What the score of an epoch is, by task."""


def prepare_keras() -> None:
    """Before Keras is first imported: TensorFlow keeps its start-up notes to itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def imported_keras() -> Any:
    """Keras with its backend; what TensorFlow writes to stderr on import, whatever it is told, is dropped."""
    prepare_keras()
    sys.stderr.flush()
    kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    try:
        import keras
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)
    return keras


def compiled(recipe: Recipe, classes: int, plan: RatePlan, *, seed: int) -> Any:
    """The recipe's network with loss, metric and optimiser, its variables all made."""
    keras = imported_keras()
    keras.utils.set_random_seed(seed)
    model = recipe.build(classes)
    classifying = recipe.task == "classify"
    loss: Any = overlap_loss
    if classifying:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    model.compile(
        optimizer=keras.optimizers.AdamW(plan.as_keras(), weight_decay=recipe.weight_decay, clipnorm=1.0),
        loss=loss,
        # XLA takes minutes to compile a large network and gains little in convolutions; JAX knows no other way.
        jit_compile=keras.backend.backend() == "jax",
        metrics=[keras.metrics.CategoricalAccuracy(name="score") if classifying else soft_dice],
    )
    model.optimizer.build(model.trainable_variables)
    return model


def overlap_loss(truth: Any, predicted: Any) -> Any:
    """Cross-entropy plus 1 - Dice, for each image ``(N,)``: the loss of the reference U-Net, on both maps."""
    from keras import ops

    clipped = ops.clip(predicted, 1e-6, 1.0 - 1e-6)
    entropy = -truth * ops.log(clipped) - (1.0 - truth) * ops.log(1.0 - clipped)
    axes = (1, 2)
    overlap = ops.sum(truth * predicted, axes)
    dice = (2.0 * overlap + 1.0) / (ops.sum(truth, axes) + ops.sum(predicted, axes) + 1.0)
    return ops.mean(entropy, (1, 2, 3)) + 1.0 - ops.mean(dice, -1)


def soft_dice(truth: Any, predicted: Any) -> Any:
    """Dice of the foreground at a threshold of one half, for each image ``(N,)``."""
    from keras import ops

    found = ops.cast(predicted[..., 0] >= 0.5, "float32")
    asked = ops.cast(truth[..., 0] >= 0.5, "float32")
    overlap = ops.sum(found * asked, (1, 2))
    return (2.0 * overlap + 1.0) / (ops.sum(found, (1, 2)) + ops.sum(asked, (1, 2)) + 1.0)


soft_dice.__name__ = "score"


def drawing(data: TrainingSet, recipe: Recipe, *, weighted: bool) -> Draw:
    """How examples become what the network sees."""
    if recipe.task == "segment":
        return DrawTile(data, recipe)
    weights = data.class_weights
    return DrawCrop(data, recipe, weights if weighted else weights * 0 + 1)


def steps_per_epoch(data: TrainingSet, settings: RunSettings) -> int:
    return -(-len(data.train) // settings.batch)


def plan_of(data: TrainingSet, settings: RunSettings) -> RatePlan:
    steps = settings.epochs * steps_per_epoch(data, settings)
    return RatePlan(kind=settings.schedule, highest=settings.rate, steps=steps)


def train(data: TrainingSet, recipe: Recipe, settings: RunSettings, folder: Path) -> tuple[Any, History]:
    """Train in `folder`, from its last checkpoint on if there is one; the model is that of the best epoch.

    Raises:
        TrainingFailedError: the loss became infinite or no number; the checkpoints before that are kept.
        UnwritableOutputError: a checkpoint cannot be written.
    """
    plan = plan_of(data, settings)
    model = compiled(recipe, len(data.spec.classes), plan, seed=settings.seed)
    checkpoints = Checkpoints(folder / "checkpoints")
    history = checkpoints.restore_last(model)
    if len(history.epochs) < settings.epochs and not history.is_stale(settings.patience):
        history = _fit(model, data, recipe, settings, plan, checkpoints, history, folder)
    checkpoints.restore(model, history.best)
    return model, history


def _fit(
    model: Any,
    data: TrainingSet,
    recipe: Recipe,
    settings: RunSettings,
    plan: RatePlan,
    checkpoints: Checkpoints,
    history: History,
    folder: Path,
) -> History:
    done, workers = len(history.epochs), max(2, usable_cores())
    training = batches(
        data.train,
        drawing(data, recipe, weighted=settings.class_weights),
        recipe,
        batch=settings.batch,
        seed=settings.seed,
        first_epoch=done,
        workers=workers,
    )
    validation = None
    if data.validate:
        draw = drawing(data, recipe, weighted=False)
        validation = batches(data.validate, draw, recipe, batch=settings.batch, seed=None, workers=workers)
    watch = _watch(
        settings, plan, checkpoints, EventLog(folder / "events"), history, len(training), SCORES[recipe.task]
    )
    model.fit(
        training,
        validation_data=validation,
        initial_epoch=done,
        epochs=settings.epochs,
        callbacks=[watch],
        shuffle=False,  # the batches are shuffled already, by a rule that a resumed run can repeat
        verbose=0,
    )
    if watch.error is not None:
        raise watch.error
    found: History = watch.history
    return found


def _watch(
    settings: RunSettings,
    plan: RatePlan,
    checkpoints: Checkpoints,
    events: EventLog,
    history: History,
    steps: int,
    score: str,
) -> Any:
    """The Keras callback of a run. Its `error` is raised outside of fit: inside, threads would be left behind."""
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
        def __init__(self) -> None:
            super().__init__()
            self.history = history
            self.error: SlideCascadeError | None = None
            self._started = time.monotonic()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._started = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = float((logs or {})["loss"])
            _draw_progress(len(self.history.epochs) + 1, settings.epochs, batch + 1, steps, loss)
            if not math.isfinite(loss):
                self._give_up(f"The loss became {loss:g} in epoch {len(self.history.epochs) + 1}")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if self.error is not None:
                return
            found = _epoch_of(logs or {}, plan.rate_at((epoch + 1) * steps - 1), time.monotonic() - self._started)
            if not math.isfinite(found.watched):
                self._give_up(f"The validation loss became {found.watched:g} in epoch {epoch + 1}")
                return
            self.history = self.history.with_epoch(found)
            try:
                checkpoints.save(self.model, self.history)
                events.write(epoch + 1, _curves(found))
            except SlideCascadeError as error:
                self.error = error
                self.model.stop_training = True
                return
            sys.stdout.write(_line(self.history, settings.epochs, score))
            sys.stdout.flush()
            if self.history.is_stale(settings.patience):
                self.model.stop_training = True

        def _give_up(self, what: str) -> None:
            done = len(self.history.epochs)
            kept = f"the checkpoint of epoch {done} is kept" if done else "nothing was learned yet"
            self.error = TrainingFailedError(
                f"{what}; {kept}: start again in another --out with a lower --rate (--find-rate shows which)."
            )
            self.model.stop_training = True

    return Watch()


def _epoch_of(logs: dict[str, Any], rate: float, seconds: float) -> Epoch:
    validated = {name: float(logs[name]) if name in logs else None for name in ("val_loss", "val_score")}
    return Epoch(loss=float(logs["loss"]), score=float(logs["score"]), rate=rate, seconds=seconds, **validated)


def _curves(epoch: Epoch) -> dict[str, float]:
    curves = {"loss/train": epoch.loss, "score/train": epoch.score, "rate": epoch.rate}
    if epoch.val_loss is not None and epoch.val_score is not None:
        curves |= {"loss/validate": epoch.val_loss, "score/validate": epoch.val_score}
    return curves


def _line(history: History, epochs: int, score: str) -> str:
    last, number = history.epochs[-1], len(history.epochs)
    told = f"epoch {number}/{epochs}  loss {last.loss:.4f}  {score} {last.score:.3f}"
    if last.val_loss is not None and last.val_score is not None:
        told += f"  validation loss {last.val_loss:.4f}  {score} {last.val_score:.3f}"
    best = "  best" if history.best == number else ""
    return f"{told}  rate {last.rate:.2g}  {last.seconds:.0f} s{best}\n"


def _draw_progress(epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
    """A bar on a terminal; silence in a log file."""
    if not sys.stderr.isatty():
        return
    filled = _BAR_WIDTH * step // steps
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    sys.stderr.write(f"\repoch {epoch}/{epochs} [{bar}] {step}/{steps} loss {loss:.4f} ")
    if step == steps:
        sys.stderr.write("\r\033[K")
    sys.stderr.flush()
