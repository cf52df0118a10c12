"""The training loop of every recipe: epochs with checkpoints, early stopping, a stop at the first loss that is NaN
or infinite.

Keras runs the step (`train_on_batch`) on any backend; `Model.fit` is not used: it prefetches batches from
another thread, wraps errors of a data set in backend errors, and lets a callback stop a run only by a flag. Here
a batch is a function of its step, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from slidecascade.errors import TrainingFailedError
from slidecascade_training.checkpoint import Checkpoints, Epoch, History
from slidecascade_training.eventlog import EventLog
from slidecascade_training.prefetch import Batch, DrawBatch, Floats
from slidecascade_training.schedule import RatePlan
from slidecascade_training.timelimit import NO_LIMIT, TimeLimit

_BAR_WIDTH: Final = 30
SCORE: Final = "score"
"""The name of a network's metric, where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Length of a run and the epoch it returns.

    Attributes:
        steps: total number of steps.
        epoch_steps: steps between checkpoints; the last epoch and one cut by a time limit may be shorter.
        patience: epochs without improvement before the run stops; 0: no early stopping.
        kept: the epoch a finished run returns: the one with the lowest watched loss, or the last.
        score: display name of the metric; None without one.
        remedy: what to do when the loss is NaN, for the error message.
    """

    steps: int
    epoch_steps: int
    patience: int = 0
    kept: Literal["best", "last"] = "best"
    score: str | None = None
    remedy: str = "start again in another --out with a lower --rate (--find-rate shows which)"

    def steps_from(self, first: int) -> range:
        """Steps of the epoch that starts at step `first`, counted from 0."""
        return range(first, min(first + self.epoch_steps, self.steps))

    def epochs_of(self, history: History) -> int:
        """Number of epochs at the end of the run; one more for each that a time limit cut short."""
        return len(history.epochs) + max(0, -(-(self.steps - history.steps) // self.epoch_steps))


@dataclass(frozen=True, slots=True)
class Pixels:
    """Scaling of pixel values 0 to 255 to a network's input: ``value * scale + offset``."""

    scale: float
    offset: float = 0.0

    def of(self, images: npt.NDArray[Any]) -> Floats:
        """float32 of the same shape."""
        return np.asarray(images, np.float32) * np.float32(self.scale) + np.float32(self.offset)


def compile_network(
    network: Any, loss: Any, plan: RatePlan, *, weight_decay: float, metrics: Sequence[Any] = ()
) -> Any:
    """The network with loss, metrics and optimiser (AdamW, Loshchilov and Hutter 2019), with all variables
    created."""
    import keras

    network.compile(
        optimizer=keras.optimizers.AdamW(plan.as_keras(), weight_decay=weight_decay, clipnorm=1.0),
        loss=loss,
        # XLA takes minutes to compile a large network and gains little in convolutions; JAX requires it.
        jit_compile=keras.backend.backend() == "jax",
        metrics=list(metrics),
    )
    network.optimizer.build(network.trainable_variables)
    return network


def fit(
    model: Any,
    draw: DrawBatch,
    course: Course,
    folder: Path,
    *,
    pixels: Pixels,
    plan: RatePlan,
    validation: Callable[[], Iterable[Batch]] | None = None,
    limit: TimeLimit = NO_LIMIT,
) -> History:
    """Train in `folder`, from its last checkpoint on; `model` gets the weights of the epoch that the course keeps.

    Args:
        model: compiled by `compile_network`.
        draw: see `DrawBatch`.
        pixels: scaling of images.
        plan: learning-rate plan of the optimiser, for the log.
        validation: the batches to validate on after each epoch.
        limit: when it is over, the step in progress is the last one, and a checkpoint is written.

    Raises:
        TrainingFailedError: when the loss is NaN or infinite; earlier checkpoints are kept.
        UnwritableOutputError: a checkpoint cannot be written.
        UnusableDataError and others that `draw` raises, unchanged.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    history = checkpoints.restore_last(model)
    _say(f"{course.steps} steps, from step {history.steps}\n")
    if not _is_over(history, course):
        with EventLog(folder / "events") as events:
            while not _is_over(history, course) and not limit.is_over:
                epoch = _train_epoch(model, draw, course, history, pixels, plan, limit)
                if validation is not None:
                    epoch = _validated(model, validation(), epoch, course, history, pixels)
                history = history.with_epoch(epoch)
                checkpoints.save(model, history)
                events.write(epoch.steps, _curves(epoch))
                _say(_line(history, course))
    if not _is_over(history, course):
        _say(f"stopped by the time limit at step {history.steps} of {course.steps}: repeat the command to go on\n")
    if history.epochs:
        checkpoints.restore(model, history.best if course.kept == "best" else len(history.epochs))
    return history


def _is_over(history: History, course: Course) -> bool:
    return history.steps >= course.steps or history.is_stale(course.patience)


def _train_epoch(
    model: Any,
    draw: DrawBatch,
    course: Course,
    history: History,
    pixels: Pixels,
    plan: RatePlan,
    limit: TimeLimit,
) -> Epoch:
    started = time.monotonic()
    steps = course.steps_from(history.steps)
    model.reset_metrics()
    logs: dict[str, Any] = {}
    done = steps.start
    for step in steps:
        batch = draw(step)
        logs = train_step(model, batch, pixels)
        loss = float(logs["loss"])
        _draw_progress(course, history, step - steps.start + 1, len(steps), loss)
        if not math.isfinite(loss):
            raise _failure("loss", loss, course, history)
        done = step + 1
        if limit.is_over:
            break
    return Epoch(
        steps=done,
        loss=float(logs["loss"]),
        score=_score(logs),
        val_loss=None,
        val_score=None,
        rate=plan.rate_at(done - 1),
        seconds=time.monotonic() - started,
    )


def train_step(model: Any, batch: Batch, pixels: Pixels) -> dict[str, Any]:
    """One step; Keras' means of loss and metrics since they were last reset."""
    logs: dict[str, Any] = model.train_on_batch(
        pixels.of(batch.images), batch.targets, sample_weight=batch.weights, return_dict=True
    )
    return logs


def _validated(
    model: Any, batches: Iterable[Batch], epoch: Epoch, course: Course, history: History, pixels: Pixels
) -> Epoch:
    from dataclasses import replace

    model.reset_metrics()
    logs: dict[str, Any] = {}
    for batch in batches:
        logs = model.test_on_batch(
            pixels.of(batch.images), batch.targets, sample_weight=batch.weights, return_dict=True
        )
    loss = float(logs["loss"])
    if not math.isfinite(loss):
        raise _failure("validation loss", loss, course, history)
    return replace(epoch, val_loss=loss, val_score=_score(logs))


def _score(logs: dict[str, Any]) -> float | None:
    return float(logs[SCORE]) if SCORE in logs else None


def _failure(what: str, loss: float, course: Course, history: History) -> TrainingFailedError:
    done = len(history.epochs)
    kept = f"the checkpoint of epoch {done} is kept" if done else "nothing was learned yet"
    return TrainingFailedError(f"The {what} became {loss:g} in epoch {done + 1}; {kept}: {course.remedy}.")


def _curves(epoch: Epoch) -> dict[str, float]:
    curves = {
        "loss/train": epoch.loss,
        "loss/validate": epoch.val_loss,
        "score/train": epoch.score,
        "score/validate": epoch.val_score,
        "rate": epoch.rate,
    }
    return {name: value for name, value in curves.items() if value is not None}


def _line(history: History, course: Course) -> str:
    last, number = history.epochs[-1], len(history.epochs)
    parts = [f"epoch {number}/{course.epochs_of(history)}", f"step {last.steps}", f"loss {last.loss:.4f}"]
    if last.score is not None:
        parts.append(f"{course.score} {last.score:.3f}")
    if last.val_loss is not None:
        parts.append(f"validation loss {last.val_loss:.4f}")
    if last.val_score is not None:
        parts.append(f"{course.score} {last.val_score:.3f}")
    parts += [f"rate {last.rate:.2g}", f"{last.seconds:.0f} s"]
    if course.kept == "best" and history.best == number:
        parts.append("best")
    return "  ".join(parts) + "\n"


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _draw_progress(course: Course, history: History, step: int, steps: int, loss: float) -> None:
    """A progress bar on a terminal, none in a log file."""
    if not sys.stderr.isatty():
        return
    filled = _BAR_WIDTH * step // steps
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    number = len(history.epochs) + 1
    sys.stderr.write(f"\repoch {number}/{course.epochs_of(history)} [{bar}] {step}/{steps} loss {loss:.4f} ")
    if step == steps:
        sys.stderr.write("\r\033[K")
    sys.stderr.flush()
