"""One run of a classifier of the `nash` pipeline: training, temperature, floor, figures of the served graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.privacy import forbid_telemetry
from slidecascade_render.liver.crops import Crops, Task
from slidecascade_training.calibration import calibration_of, floor_for, temperature
from slidecascade_training.checkpoint import History
from slidecascade_training.claim import claim
from slidecascade_training.fit import Course, Pixels, fit
from slidecascade_training.nash.crops import BalancedDraw
from slidecascade_training.prefetch import prefetched
from slidecascade_training.recipes import networks
from slidecascade_training.recipes.figures import Figures, figures_of
from slidecascade_training.recipes.run import SCORES, compiled
from slidecascade_training.recipes.table import Recipe, find_recipe
from slidecascade_training.schedule import RatePlan

EPOCH_STEPS: Final = 100  # between checkpoints

Floats = npt.NDArray[np.float32]


def recipe_of(task: Task) -> Recipe:
    """The users' recipe with the same network, for this crop."""
    return replace(
        find_recipe("small-classifier"),
        name=task.name,
        input_px=task.input_px,
        build=partial(networks.small_classifier, task.input_px),
        batch=48,
        weight_decay=1e-3,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NashSettings:
    """All settings of a run; stored in ``run.json``."""

    recipe: str
    seed: int
    windows: int
    steps: int
    batch: int


@dataclass(frozen=True, slots=True)
class Result:
    """Predictions of the served graph for crops of held-out windows, and the settings of the run.

    Attributes:
        probabilities: float32 ``(N, C)`` of the held-out crops.
        figures: of these.
        temperature: divides the logits inside the graph.
        ece_before: the expected calibration error without it.
        floor: the minimum probability of an assigned class.
        settings: of the run.
        minutes: duration of training.
    """

    probabilities: Floats
    labels: npt.NDArray[np.int64]
    figures: Figures
    temperature: float
    ece_before: float
    floor: float
    settings: NashSettings
    minutes: float

    def __str__(self) -> str:
        return (
            f"balanced accuracy {self.figures.balanced_accuracy:.4f}, temperature {self.temperature:.3f}, "
            f"calibration error {self.ece_before:.4f} -> {self.figures.calibration.error:.4f}, "
            f"floor {self.floor:.2f} leaves {self.unclassified:.2%} out, "
            f"{self.accuracy_above_floor:.4f} right above it\n{self.figures.confusion}"
        )

    @property
    def unclassified(self) -> float:
        """The fraction of crops whose highest probability is below the floor."""
        return float(np.mean(self.probabilities.max(axis=1) < self.floor))

    @property
    def accuracy_above_floor(self) -> float:
        return self._right(self.probabilities.max(axis=1) >= self.floor)

    @property
    def accuracy_below_floor(self) -> float:
        return self._right(self.probabilities.max(axis=1) < self.floor)

    def _right(self, rows: npt.NDArray[np.bool_]) -> float:
        right = self.probabilities[rows].argmax(axis=1) == self.labels[rows]
        return float(np.mean(right)) if right.size else 1.0


def train(task: Task, crops: Crops, folder: Path, settings: NashSettings) -> tuple[Any, History]:
    """Train in `folder`, from its last checkpoint on; the network of the last step.

    Raises:
        InvalidRequestError: when `folder` contains another run.
        TrainingFailedError, UnwritableOutputError: see `slidecascade_training.fit.fit`.
    """
    claim(folder, settings)
    recipe = recipe_of(task)
    plan = RatePlan(kind=recipe.schedule, highest=recipe.rate, steps=settings.steps)
    model = compiled(recipe, len(task.classes), plan, seed=settings.seed)
    course = Course(steps=settings.steps, epoch_steps=EPOCH_STEPS, kept="last", score=SCORES[recipe.task])
    draw = BalancedDraw(task, crops, settings.batch, settings.seed)
    with prefetched(draw, stop=settings.steps) as batches:
        history = fit(model, batches, course, folder, pixels=recipe.pixels, plan=plan)
    return model, history


def fit_calibration(model: Any, pixels: Pixels, calibration: Crops) -> tuple[float, float]:
    """Divide the model's logits by the temperature fitted on `calibration`, inside its last layer.

    Returns the temperature, and the floor for the calibrated probabilities.
    """
    # Logits up to a constant per row, to which softmax is invariant.
    logits = np.log(np.maximum(predictions(model, pixels, calibration), 1e-30))
    factor = temperature(logits, calibration.labels)
    last = model.layers[-1]
    last.set_weights([weights / factor for weights in last.get_weights()])
    return factor, floor_for(predictions(model, pixels, calibration))


def predictions(model: Any, pixels: Pixels, crops: Crops) -> Floats:
    """Probabilities (N, C) of the network."""
    starts = range(0, crops.labels.size, 256)
    parts = [np.asarray(model.predict_on_batch(pixels.of(crops.images[start : start + 256]))) for start in starts]
    return np.asarray(np.concatenate(parts), np.float32)


def served_predictions(graph: Any, crops: Crops) -> Floats:
    """Probabilities (N, C) of the served graph for uint8 crops."""
    forbid_telemetry()
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    starts = range(0, crops.labels.size, 64)
    return np.concatenate([session.run(None, {"image": crops.images[start : start + 64]})[0] for start in starts])


def measured(
    task: Task,
    probabilities: Floats,
    before: Floats,
    labels: npt.NDArray[np.int64],
    *,
    calibration_fit: tuple[float, float],
    settings: NashSettings,
    minutes: float,
) -> Result:
    """The result of a run, from predictions with and without the temperature of `calibration_fit`."""
    return Result(
        probabilities=probabilities,
        labels=labels,
        figures=figures_of(probabilities, labels, task.classes),
        temperature=calibration_fit[0],
        ece_before=calibration_of(before, labels).error,
        floor=calibration_fit[1],
        settings=settings,
        minutes=minutes,
    )
