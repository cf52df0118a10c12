"""One run of a recipe on a user's data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from slidecascade_training.backend import imported_keras
from slidecascade_training.checkpoint import History
from slidecascade_training.fit import Course, compile_network, fit
from slidecascade_training.prefetch import Batch, prefetched
from slidecascade_training.recipes.losses import LOSSES, overlap_loss, soft_dice
from slidecascade_training.recipes.samples import Draw, DrawCrop, DrawTile, ExampleBatches, TrainingSet
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe
from slidecascade_training.schedule import RatePlan

SCORES: Final[Mapping[str, str]] = MappingProxyType({"classify": "accuracy", "segment": "Dice"})
"""Name of the score, by task."""


def compiled(recipe: Recipe, classes: int, plan: RatePlan, *, seed: int, loss_name: str | None = None) -> Any:
    """The recipe's network with random weights, its loss (of areas: `loss_name`), metric and optimiser."""
    keras = imported_keras()
    keras.utils.set_random_seed(seed)
    network = recipe.build(classes)
    if recipe.task == "classify":
        loss: Any = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
        metrics = [keras.metrics.CategoricalAccuracy(name="score")]
    elif loss_name is not None:
        loss, metrics = LOSSES[loss_name], [soft_dice]
    elif recipe.loss is not None:
        loss, metrics = recipe.loss, []
    else:
        loss, metrics = overlap_loss, [soft_dice]
    return compile_network(network, loss, plan, weight_decay=recipe.weight_decay, metrics=metrics)


def drawing(data: TrainingSet, recipe: Recipe, *, weighted: bool) -> Draw:
    """Converts examples to the network's input."""
    if recipe.task == "segment":
        return DrawTile(data, recipe)
    weights = data.class_weights
    return DrawCrop(data, recipe, weights if weighted else weights * 0 + 1)


def training_batches(data: TrainingSet, recipe: Recipe, settings: RunSettings) -> ExampleBatches:
    draw = drawing(data, recipe, weighted=settings.class_weights)
    return ExampleBatches(data.train, draw, settings.batch, settings.seed)


def plan_of(data: TrainingSet, settings: RunSettings) -> RatePlan:
    epoch_steps = -(-len(data.train) // settings.batch)
    return RatePlan(kind=settings.schedule, highest=settings.rate, steps=settings.epochs * epoch_steps)


def train(data: TrainingSet, recipe: Recipe, settings: RunSettings, folder: Path) -> tuple[Any, History]:
    """Train in `folder`, from its last checkpoint on if there is one; the model is that of the best epoch.

    Raises:
        TrainingFailedError, UnwritableOutputError: see `slidecascade_training.fit.fit`.
    """
    plan = plan_of(data, settings)
    model = compiled(recipe, len(data.spec.classes), plan, seed=settings.seed, loss_name=settings.loss)
    training = training_batches(data, recipe, settings)
    held_out = ExampleBatches(data.validate, drawing(data, recipe, weighted=False), settings.batch, None)
    course = Course(
        steps=plan.steps,
        epoch_steps=len(training),
        patience=settings.patience,
        score=SCORES[recipe.task],
    )
    with ExitStack() as pools:
        draw = pools.enter_context(prefetched(training, stop=plan.steps))
        validate = pools.enter_context(prefetched(held_out, stop=len(held_out)))

        def validation() -> Iterable[Batch]:
            return map(validate, range(len(held_out)))

        history = fit(
            model,
            draw,
            course,
            folder,
            pixels=recipe.pixels,
            plan=plan,
            validation=validation if data.validate else None,
        )
    return model, history
