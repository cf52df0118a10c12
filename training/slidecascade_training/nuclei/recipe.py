"""One run of the nuclei recipe: a network from scratch, its rate along a single cosine, crops drawn by steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slidecascade_training.backend import imported_keras
from slidecascade_training.checkpoint import Checkpoints, History
from slidecascade_training.fit import Course, compile_network, fit
from slidecascade_training.nuclei.crops import CropDraw, Scaling, TrainingImage
from slidecascade_training.nuclei.network import WIDTHS, build_network
from slidecascade_training.prefetch import prefetched
from slidecascade_training.recipes.table import NUCLEI, Recipe, find_recipe
from slidecascade_training.schedule import RatePlan
from slidecascade_training.timelimit import NO_LIMIT, TimeLimit

EPOCH_STEPS: Final = 100  # between two checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiSettings:
    """All settings of a run; stored in ``run.json``.

    Attributes:
        data_sha256: of the data set's lists.
        nucls_images, tissue_windows: images trained on beside the data set.
        fold: of `slidecascade_training.nuclei.folds`; None trains on all but the images kept for validation.
        scaling: see `slidecascade_training.nuclei.crops.Scaling`.
    """

    recipe: str
    seed: int
    steps: int
    batch: int
    widths: tuple[int, ...]
    data_sha256: str
    nucls_images: int = 0
    tissue_windows: int = 0
    fold: str | None = None
    scaling: Scaling = "kinds"


def settings_of(
    data_sha256: str,
    *,
    seed: int,
    steps: int | None = None,
    batch: int | None = None,
    widths: Sequence[int] = WIDTHS,
    nucls_images: int = 0,
    tissue_windows: int = 0,
    fold: str | None = None,
    scaling: Scaling = "kinds",
) -> NucleiSettings:
    """The recipe's default settings."""
    recipe = find_recipe(NUCLEI)
    return NucleiSettings(
        recipe=recipe.name,
        seed=seed,
        steps=_steps_of(recipe) if steps is None else steps,
        batch=recipe.batch if batch is None else batch,
        widths=tuple(widths),
        data_sha256=data_sha256,
        nucls_images=nucls_images,
        tissue_windows=tissue_windows,
        fold=fold,
        scaling=scaling,
    )


def train(
    pool: Sequence[TrainingImage], folder: Path, settings: NucleiSettings, limit: TimeLimit = NO_LIMIT
) -> tuple[Any, History]:
    """Train in `folder`, from its last checkpoint on, until `limit`; the network of the last step.

    Raises:
        TrainingFailedError, UnwritableOutputError: see `slidecascade_training.fit.fit`.
    """
    recipe, plan = find_recipe(NUCLEI), _plan(settings)
    network = _compiled(settings)
    course = Course(
        steps=settings.steps,
        epoch_steps=EPOCH_STEPS,
        kept="last",
        remedy="check the images, or restart in another --out with another --seed",
    )
    draw = CropDraw(tuple(pool), settings.batch, settings.seed)
    with prefetched(draw, stop=settings.steps, in_processes=True) as batches:
        history = fit(network, batches, course, folder, pixels=recipe.pixels, plan=plan, limit=limit)
    return network, history


def trained(folder: Path, settings: NucleiSettings) -> tuple[Any, History]:
    """The network of the last checkpoint in `folder`, possibly of an unfinished run.

    Raises:
        TrainingFailedError: the checkpoint cannot be read.
    """
    network = _compiled(settings)
    return network, Checkpoints(folder / "checkpoints").restore_last(network)


def _compiled(settings: NucleiSettings) -> Any:
    recipe = find_recipe(NUCLEI)
    imported_keras().utils.set_random_seed(settings.seed)
    return compile_network(
        build_network(settings.widths), recipe.loss, _plan(settings), weight_decay=recipe.weight_decay
    )


def _plan(settings: NucleiSettings) -> RatePlan:
    recipe = find_recipe(NUCLEI)
    return RatePlan(kind=recipe.schedule, highest=recipe.rate, steps=settings.steps)


def _steps_of(recipe: Recipe) -> int:
    if recipe.steps is None:
        raise ValueError(f"the recipe {recipe.name} is not trained by steps")
    return recipe.steps
