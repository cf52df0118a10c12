"""The learning-rate range test (Smith 2017): a short run with a growing rate, to see which one to choose."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import TrainingFailedError
from slidecascade.staging import make_folder, write_file
from slidecascade_training.fit import train_step
from slidecascade_training.prefetch import prefetched
from slidecascade_training.recipes import plots
from slidecascade_training.recipes.run import compiled, training_batches
from slidecascade_training.recipes.samples import TrainingSet
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe
from slidecascade_training.schedule import RatePlan

HIGHEST: Final = 1.0
_SMOOTHING: Final = 0.9
_HOPELESS: Final = 4.0  # times the best loss, after which it does not recover
_FEWEST: Final = 10


def find_rate(data: TrainingSet, recipe: Recipe, settings: RunSettings, folder: Path, *, steps: int) -> float:
    """Write ``rates.json`` and ``rates.png`` into `folder`; the rate to train at.

    Starts from random weights and keeps none. The loss is smoothed over about ten steps.

    Raises:
        TrainingFailedError: when the loss is NaN in the first steps.
    """
    plan = RatePlan(kind="range-test", highest=HIGHEST, steps=steps)
    model = compiled(recipe, len(data.spec.classes), plan, seed=settings.seed, loss_name=settings.loss)
    losses: list[float] = []
    smoothed = 0.0
    with prefetched(training_batches(data, recipe, settings), stop=steps) as draw:
        for step in range(steps):
            model.reset_metrics()
            loss = float(train_step(model, draw(step), recipe.pixels)["loss"])
            if not math.isfinite(loss):
                break
            smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            losses.append(smoothed / (1 - _SMOOTHING ** (step + 1)))
            if losses[-1] > _HOPELESS * min(losses):
                break
    if len(losses) < _FEWEST:
        raise TrainingFailedError("The loss became NaN after a few steps at a tiny rate: check the images.")
    rates = np.array([plan.rate_at(step) for step in range(len(losses))])
    advice = advised(rates, np.array(losses))
    _write(folder, rates, np.array(losses), advice)
    return advice


def advised(rates: npt.NDArray[np.float64], losses: npt.NDArray[np.float64]) -> float:
    """A tenth of the rate at which the smoothed loss is lowest: there it still decreases steadily.

    The steepest decrease is the usual criterion, but noise in the first steps often dominates it.
    """
    return float(rates[int(np.argmin(losses))] / 10)


def _write(folder: Path, rates: npt.NDArray[np.float64], losses: npt.NDArray[np.float64], advice: float) -> None:
    make_folder(folder)
    curve = {"advice": advice, "rates": rates.tolist(), "losses": losses.tolist()}
    write_file(folder / "rates.json", json.dumps(curve).encode() + b"\n")
    plots.draw_rates(folder / "rates.png", rates, losses, advice)
