"""Checkpoints for resuming a run: one file per epoch, written atomically."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from slidecascade.errors import TrainingFailedError
from slidecascade.staging import make_folder, write_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Figures of one epoch; None without validation data or without a score. `steps` counts all steps of the run
    up to its end.
    """

    steps: int
    loss: float
    score: float | None
    val_loss: float | None
    val_score: float | None
    rate: float
    seconds: float

    @property
    def watched(self) -> float:
        """The loss by which the best epoch is chosen."""
        return self.loss if self.val_loss is None else self.val_loss


@dataclass(frozen=True, slots=True)
class History:
    """The epochs so far."""

    epochs: tuple[Epoch, ...] = ()

    @property
    def steps(self) -> int:
        return self.epochs[-1].steps if self.epochs else 0

    @property
    def best(self) -> int:
        """The epoch with the lowest watched loss, counted from 1; 0 when there is none."""
        losses = [epoch.watched for epoch in self.epochs]
        return 1 + losses.index(min(losses)) if losses else 0

    def with_epoch(self, epoch: Epoch) -> History:
        return replace(self, epochs=(*self.epochs, epoch))

    def is_stale(self, patience: int) -> bool:
        """Whether the last `patience` epochs did not improve."""
        return len(self.epochs) - self.best >= patience > 0


class Checkpoints:
    """The last and the best epoch of a run, in `folder`: weights, optimiser state, history."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, model: Any, history: History) -> None:
        """Write the epoch that just ended, then remove all but the last and the best.

        Raises:
            UnwritableOutputError: when the disk is full; existing files are unchanged.
        """
        arrays = {f"v{index}": array for index, array in enumerate(_values(model))}
        notes = json.dumps([asdict(epoch) for epoch in history.epochs]).encode()
        file = io.BytesIO()
        np.savez(file, history=np.frombuffer(notes, np.uint8), **arrays)
        last = len(history.epochs)
        make_folder(self._folder)
        write_file(self._path(last), file.getvalue())
        for number in self._numbers():
            if number not in (last, history.best):
                self._path(number).unlink(missing_ok=True)

    def restore_last(self, model: Any) -> History:
        """Load the last epoch into `model` and its optimiser; an empty history without a checkpoint."""
        numbers = self._numbers()
        return self.restore(model, numbers[-1]) if numbers else History()

    def restore(self, model: Any, epoch: int) -> History:
        """Load `epoch` into `model` and its optimiser.

        Raises:
            TrainingFailedError: the checkpoint is not of this network, or damaged.
        """
        try:
            # From memory: numpy would leave the handle of a damaged file open.
            file = io.BytesIO(self._path(epoch).read_bytes())
            with np.load(file, allow_pickle=False) as stored:
                notes = json.loads(stored["history"].tobytes())
                history = History(tuple(Epoch(**fields) for fields in notes))
                _assign(model, [stored[f"v{index}"] for index in range(len(stored.files) - 1)])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingFailedError(
                f"The checkpoint of epoch {epoch} cannot be read or belongs to another network: "
                "choose another --out."
            ) from error
        return history

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("epoch-")) for path in self._folder.glob("epoch-*.npz"))

    def _path(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:05d}.npz"


def _variables(model: Any) -> list[Any]:
    """Weights, moving averages and random states of the layers, then the optimiser's."""
    return [*model.variables, *model.optimizer.variables]


def _values(model: Any) -> list[Any]:
    # np.asarray works with every backend's variables without a warning; np.array does not.
    return [np.asarray(variable) for variable in _variables(model)]


def _assign(model: Any, values: Sequence[Any]) -> None:
    variables = _variables(model)
    if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
        raise ValueError("another network")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
