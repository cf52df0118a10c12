"""One run: crops drawn by steps, the rate along one cosine, a checkpoint every few steps."""

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
from torch import Tensor
from torch.nn import functional

from slidecascade.errors import InvalidRequestError, TrainingFailedError
from slidecascade.heads.flows import FLOW_SCALE
from slidecascade_evaluation import dsb2018
from slidecascade_training.fluorescence.crops import Crops, Specimen, draw, scaled_intensity
from slidecascade_training.fluorescence.network import GRID, FluorescenceNetwork, network_from_nuclei
from slidecascade_training.nuclei.targets import WEIGHT_UNIT

CHECKPOINT: Final = "checkpoint.pt"
_CHECKPOINT_STEPS: Final = 25
_WARM_UP_STEPS: Final = 20
_RATE: Final = 6e-4
_TRUNK_RATE: Final = 2e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class FluorescenceSettings:
    """All settings of a run, stored in its checkpoint."""

    seed: int
    steps: int
    batch: int


def training_images(data: Path) -> list[Specimen]:
    """The fluorescence images of the DSB set's training split.

    Raises:
        ValueError: no such set.
    """
    images = [item for item in dsb2018.read_images(data, "train") if item.kind == dsb2018.FLUORESCENCE]
    return [Specimen.of(scaled_intensity(item.image.max(axis=2)), item.labels) for item in images]


def train(pool: Sequence[Specimen], nuclei: Path, out: Path, settings: FluorescenceSettings) -> FluorescenceNetwork:
    """Train in `out`, from its checkpoint on.

    Raises:
        InvalidRequestError: `out` holds a run with other settings.
        TrainingFailedError: the loss became NaN.
    """
    network = network_from_nuclei(nuclei, settings.seed)
    heads = [value for name, value in network.named_parameters() if not name.startswith(("trunk.", "maps."))]
    base = [*network.trunk.parameters(), *network.maps.parameters()]
    optimiser = torch.optim.AdamW([{"params": heads}, {"params": base}], weight_decay=1e-4)
    start = _restored(out, network, optimiser, settings)
    # Large images hold more, so the draw goes by the square root of the area.
    shares = [item.labels.size**0.5 for item in pool]
    began, total = time.process_time(), 0.0
    for step in range(start, settings.steps):
        part = min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group, rate in zip(optimiser.param_groups, (_RATE, _TRUNK_RATE), strict=True):
            group["lr"] = rate * part
        loss = _loss(network, draw(pool, shares, settings.batch, settings.seed, step))
        if not math.isfinite(loss.item()):
            raise TrainingFailedError(f"The loss became {loss.item():g} at step {step}: use another --seed.")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        total += loss.item()
        if (step + 1) % _CHECKPOINT_STEPS == 0 or step + 1 == settings.steps:
            _save(out, network, optimiser, settings, step + 1)
            sys.stdout.write(f"step {step + 1} loss {total / _CHECKPOINT_STEPS:.4f} "
                             f"{time.process_time() - began:.0f} s of CPU\n")
            sys.stdout.flush()
            total = 0.0
    return network


def trained(out: Path) -> tuple[FluorescenceNetwork, FluorescenceSettings, int]:
    """The network of the checkpoint in `out`, its settings and the steps done.

    Raises:
        InvalidRequestError: there is none.
    """
    state = _state(out)
    network = FluorescenceNetwork()
    network.load_state_dict(state["network"])
    return network.eval(), FluorescenceSettings(**state["settings"]), int(state["step"])


def _loss(network: FluorescenceNetwork, crops: Crops) -> Tensor:
    """Weighted cross-entropy and Dice of the maps; cross-entropy and distances of stars; squares of flows."""
    maps, probability, distances, flows = network(torch.from_numpy(crops.images[:, None]))
    planes = torch.from_numpy(crops.planes.transpose(0, 3, 1, 2).copy()).float()
    inside = torch.from_numpy(crops.inside[:, None]).float()
    cell = (planes[:, :1] >= 127.5).float()
    depth = cell * planes[:, 1:2] / 255
    weight = inside * planes[:, 2:] / WEIGHT_UNIT
    entropy = functional.binary_cross_entropy_with_logits(maps, torch.cat([cell, depth], 1), reduction="none")
    found = maps[:, :1].sigmoid() * inside
    dice = 1 - (2 * (found * cell).sum() + 1) / ((found + cell).sum() + 1)
    of_maps = (weight * entropy).mean() + 0.5 * dice
    step = np.s_[:, :, ::GRID, ::GRID]
    peak = functional.binary_cross_entropy_with_logits(probability, depth[step], reduction="none")
    known = torch.from_numpy(crops.known.transpose(0, 3, 1, 2).copy()).float() * depth[step]
    truth = torch.from_numpy(crops.distances.transpose(0, 3, 1, 2).copy())
    off = (known * (distances - truth).abs()).sum() / known.sum().clamp(min=1)
    of_stars = (weight[step] * peak).mean() + 0.2 * off
    wanted = torch.from_numpy(crops.flows[..., ::-1].transpose(0, 3, 1, 2).copy()) * FLOW_SCALE
    seen = functional.binary_cross_entropy_with_logits(flows[:, 2:], cell, reduction="none")
    squares = (flows[:, :2] - wanted).square().mean(1, keepdim=True)
    of_flows = 0.5 * (inside * squares).mean() + (weight * seen).mean()
    return of_maps + of_stars + of_flows


def _state(out: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)
    except FileNotFoundError as error:
        raise InvalidRequestError(f"{out} contains no run: train first.") from error
    return state


def _restored(out: Path, network: FluorescenceNetwork, optimiser: Any, settings: FluorescenceSettings) -> int:
    if not (out / CHECKPOINT).exists():
        return 0
    state = _state(out)
    if state["settings"] != asdict(settings):
        raise InvalidRequestError(f"{out} contains a run with other settings: choose another --out.")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(out: Path, network: FluorescenceNetwork, optimiser: Any, settings: FluorescenceSettings, step: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "settings": asdict(settings),
             "step": step}  # fmt: skip
    torch.save(state, out / (CHECKPOINT + ".partial"))
    (out / (CHECKPOINT + ".partial")).replace(out / CHECKPOINT)
