"""One run: crops drawn by steps, generator and critics in turn, a checkpoint every few steps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slidecascade.errors import InvalidRequestError, TrainingFailedError
from slidecascade.models.masks import mask_planes
from slidecascade_evaluation import dsb2018
from slidecascade_training.fluorescence.crops import scaled_intensity
from slidecascade_training.translator.network import CHANNELS, Critics, Generator

CHECKPOINT: Final = "checkpoint.pt"
CROP_PX: Final = 96
_CHECKPOINT_STEPS: Final = 25
_RATE: Final = 4e-4
_BETAS: Final = (0.5, 0.99)
_OF_DIFFERENCE, _OF_FEATURES = 10.0, 5.0

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """A mask ``(H, W)`` of numbered objects and its image ``(H, W)`` of 0 to 1."""

    labels: NDArray[np.int32]
    image: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslatorSettings:
    """All settings of a run, stored in its checkpoint."""

    seed: int = 0
    steps: int = 2000
    batch: int = 4


def pairs_of(data: Path, split: dsb2018.Split) -> list[Pair]:
    """The fluorescence images of a split of the DSB set, scaled as the service scales slides.

    Raises:
        InvalidRequestError: no such set, or it has no such images.
    """
    try:
        images = [item for item in dsb2018.read_images(data, split) if item.kind == dsb2018.FLUORESCENCE]
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    if not images:
        raise InvalidRequestError(
            f"{data} has no fluorescence images in the split {split!r}: give the DSB 2018 set."
        )
    return [Pair(item.labels, scaled_intensity(item.image.max(axis=2))) for item in images]


def draw(pairs: Sequence[Pair], size: int, seed: int, step: int) -> tuple[Floats, Floats]:
    """Masks ``(N, 2, S, S)`` and images ``(N, 1, S, S)`` of a step: a function of `seed` and `step` alone."""
    rng = np.random.default_rng([seed, step])
    sides = np.array([item.labels.size**0.5 for item in pairs])
    chosen = rng.choice(len(pairs), size, p=sides / sides.sum())
    crops = [_crop(pairs[index], rng) for index in chosen]
    masks, images = zip(*crops, strict=True)
    return np.concatenate(masks), np.stack(images)[:, None]


def _crop(pair: Pair, rng: np.random.Generator) -> tuple[Floats, Floats]:
    height, width = pair.labels.shape
    top, left = (int(rng.integers(max(1, side - CROP_PX + 1))) for side in (height, width))
    part = np.s_[top : top + CROP_PX, left : left + CROP_PX]
    missing = [(0, CROP_PX - min(CROP_PX, side)) for side in (height, width)]
    turns, is_mirrored = int(rng.integers(4)), rng.random() < 0.5

    def turned(values: NDArray[Any]) -> NDArray[Any]:
        values = np.rot90(np.pad(values, missing, mode="symmetric"), turns)
        return np.ascontiguousarray(values[:, ::-1] if is_mirrored else values)

    return mask_planes(turned(pair.labels[part]), CHANNELS), turned(pair.image[part])


def train(pairs: Sequence[Pair], out: Path, settings: TranslatorSettings) -> Generator:
    """Train in `out`, from its checkpoint on.

    Raises:
        InvalidRequestError: `out` holds a run with other settings.
        TrainingFailedError: the loss became NaN.
    """
    torch.manual_seed(settings.seed)
    parts: dict[str, Any] = {"generator": Generator(), "critics": Critics()}
    for name in tuple(parts):
        parts[f"of_{name}"] = torch.optim.Adam(parts[name].parameters(), _RATE, betas=_BETAS)
    start = _restored(out, parts, settings)
    began, total = time.process_time(), 0.0
    for step in range(start, settings.steps):
        rate = _RATE * min(1.0, 2 * (1 - step / settings.steps))
        masks, images = map(torch.from_numpy, draw(pairs, settings.batch, settings.seed, step))
        loss = _step(parts, masks, images, rate)
        if not math.isfinite(loss):
            raise TrainingFailedError(f"The loss became {loss:g} at step {step}: use another --seed.")
        total += loss
        if (step + 1) % _CHECKPOINT_STEPS == 0 or step + 1 == settings.steps:
            _save(out, parts, settings, step + 1)
            sys.stdout.write(
                f"step {step + 1} difference {total / _CHECKPOINT_STEPS:.4f} "
                f"{time.process_time() - began:.0f} s of CPU\n"
            )
            sys.stdout.flush()
            total = 0.0
    return parts["generator"].eval()  # type: ignore[no-any-return]  # of a dictionary of several types


def _step(parts: dict[str, Any], masks: Tensor, images: Tensor, rate: float) -> float:
    """One step of both; the mean difference of drawn and real images."""
    drawn = parts["generator"](masks)
    real = parts["critics"](masks, images)
    fake = parts["critics"](masks, drawn.detach())
    verdict = sum(
        (functional.relu(1 - true[-1]).mean() + functional.relu(1 + false[-1]).mean())
        for true, false in zip(real, fake, strict=True)
    )
    _descend(parts["of_critics"], verdict, rate)
    fake = parts["critics"](masks, drawn)
    difference = (drawn - images).abs().mean()
    features = sum(
        functional.l1_loss(mine, theirs.detach())
        for true, false in zip(real, fake, strict=True)
        for mine, theirs in zip(false[:-1], true[:-1], strict=True)
    )
    loss = _OF_DIFFERENCE * difference + _OF_FEATURES * features - sum(each[-1].mean() for each in fake)
    _descend(parts["of_generator"], loss, rate)
    return float(difference.detach())


def _descend(optimiser: Any, loss: Any, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def trained(out: Path) -> tuple[Generator, TranslatorSettings, int]:
    """The generator of the checkpoint in `out`, its settings and the steps done.

    Raises:
        InvalidRequestError: there is none.
    """
    state = _state(out)
    network = Generator()
    network.load_state_dict(state["generator"])
    return network.eval(), TranslatorSettings(**state["settings"]), int(state["step"])


def _state(out: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)
    except FileNotFoundError as error:
        raise InvalidRequestError(f"{out} contains no run: train first.") from error
    return state


def _restored(out: Path, parts: dict[str, Any], settings: TranslatorSettings) -> int:
    if not (out / CHECKPOINT).exists():
        return 0
    state = _state(out)
    if state["settings"] != asdict(settings):
        raise InvalidRequestError(f"{out} contains a run with other settings: choose another --out.")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _save(out: Path, parts: dict[str, Any], settings: TranslatorSettings, step: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"settings": asdict(settings), "step": step}, out / (CHECKPOINT + ".partial"))
    (out / (CHECKPOINT + ".partial")).replace(out / CHECKPOINT)
