"""One run of the glomeruli recipe: a network from scratch on rendered kidney, its rate along a single cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slidecascade_training.backend import imported_keras
from slidecascade_training.checkpoint import Checkpoints, History
from slidecascade_training.fit import Course, Pixels, compile_network, fit
from slidecascade_training.kidney.crops import CropDraw, MaskedTile
from slidecascade_training.nuclei.network import build_network
from slidecascade_training.prefetch import prefetched
from slidecascade_training.schedule import RatePlan

EPOCH_STEPS: Final = 100  # between two checkpoints
STEPS: Final = 6000
BATCH: Final = 8
TILES: Final = 1300
WIDTHS: Final = (32, 64, 128)
PIXELS: Final = Pixels(1 / 255)
_WEIGHT_DECAY: Final = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class KidneySettings:
    """All settings of a run; stored in ``run.json``. `tiles` counts the rendered sections trained on."""

    seed: int
    steps: int = STEPS
    batch: int = BATCH
    tiles: int = TILES
    rate: float = 3e-3
    widths: tuple[int, ...] = WIDTHS


def area_loss(truth: Any, predicted: Any) -> Any:
    """Cross-entropy plus 1 - Dice of all images together, which is defined where an image has no area."""
    from keras import ops

    clipped = ops.clip(predicted, 1e-5, 1.0 - 1e-5)
    entropy = -truth * ops.log(clipped) - (1.0 - truth) * ops.log(1.0 - clipped)
    overlap, total = ops.sum(truth * predicted), ops.sum(truth) + ops.sum(predicted)
    return ops.mean(entropy) + 0.5 * (1.0 - (2.0 * overlap + 1.0) / (total + 1.0))


def train(pool: Sequence[MaskedTile], folder: Path, settings: KidneySettings) -> tuple[Any, History]:
    """Train in `folder`, from its last checkpoint on; the network of the last step.

    Raises:
        TrainingFailedError, UnwritableOutputError: see `slidecascade_training.fit.fit`.
    """
    network = _compiled(settings)
    course = Course(
        steps=settings.steps,
        epoch_steps=EPOCH_STEPS,
        kept="last",
        remedy="restart in another --out with another --seed",
    )
    draw = CropDraw(tuple(pool), settings.batch, settings.seed)
    with prefetched(draw, stop=settings.steps) as batches:
        history = fit(network, batches, course, folder, pixels=PIXELS, plan=_plan(settings))
    return network, history


def trained(folder: Path, settings: KidneySettings) -> tuple[Any, History]:
    """The network of the last checkpoint in `folder`, possibly of an unfinished run.

    Raises:
        TrainingFailedError: the checkpoint cannot be read.
    """
    network = _compiled(settings)
    return network, Checkpoints(folder / "checkpoints").restore_last(network)


def _compiled(settings: KidneySettings) -> Any:
    imported_keras().utils.set_random_seed(settings.seed)
    network = build_network(settings.widths, maps=1)
    return compile_network(network, area_loss, _plan(settings), weight_decay=_WEIGHT_DECAY)


def _plan(settings: KidneySettings) -> RatePlan:
    return RatePlan(kind="cosine", highest=settings.rate, steps=settings.steps)
