"""One run: crops drawn by steps, the rate along one cosine, a checkpoint every few steps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slidecascade.errors import InvalidRequestError, TrainingFailedError
from slidecascade.heads.flows import FLOW_SCALE
from slidecascade_evaluation import dsb2018
from slidecascade_render.fluorescence.dataset import SynthesisOptions, Synthesizer
from slidecascade_render.fluorescence.masks import MaskOptions
from slidecascade_render.fluorescence.optics import OpticsOptions
from slidecascade_training.fluorescence.crops import CropDraw, Crops, Specimen, scaled_intensity
from slidecascade_training.fluorescence.network import GRID, FluorescenceNetwork, network_from_nuclei
from slidecascade_training.nuclei.targets import WEIGHT_UNIT
from slidecascade_training.prefetch import prefetched
from slidecascade_training.timelimit import NO_LIMIT, TimeLimit

CHECKPOINT: Final = "checkpoint.pt"
_CHECKPOINT_STEPS: Final = 25
_WARM_UP_STEPS: Final = 20
_RATE: Final = 6e-4
_TRUNK_RATE: Final = 2e-4
_SYNTHESIZED_SHARE: Final = 0.2
_OF_SYNTHESIS: Final = 5
SYNTHESIZED_PX: Final = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class FluorescenceSettings:
    """All settings of a run, stored in its checkpoint."""

    seed: int
    steps: int
    batch: int
    synthesized: int


def training_images(data: Path) -> list[Specimen]:
    """The fluorescence images of the DSB set's training split.

    Raises:
        ValueError: no such set.
    """
    images = [item for item in dsb2018.read_images(data, "train") if item.kind == dsb2018.FLUORESCENCE]
    return [Specimen.of(scaled_intensity(item.image.max(axis=2)), item.labels) for item in images]


def synthesized_images(count: int, seed: int) -> list[Specimen]:
    """Synthesized cells, each image with cells and optics of its own."""
    rng = np.random.default_rng([seed, _OF_SYNTHESIS])
    return [_synthesized(index, rng) for index in range(count)]


def _synthesized(index: int, rng: np.random.Generator) -> Specimen:
    diameter_px = float(np.exp(rng.uniform(np.log(12), np.log(48))))
    options = SynthesisOptions(
        images=1,
        seed=int(rng.integers(2**31)),
        height_px=SYNTHESIZED_PX,
        width_px=SYNTHESIZED_PX,
        masks=MaskOptions(
            cells=int(rng.uniform(0.1, 0.45) * SYNTHESIZED_PX**2 / (0.785 * diameter_px**2)),
            diameter_px=diameter_px,
            size_deviation=float(rng.uniform(0.05, 0.35)),
            elongation=float(rng.uniform(1.1, 2.8)),
            irregularity=float(rng.uniform(0.0, 0.12)),
            touching=float(rng.uniform(0, 0.9)),
            overlap=float(rng.uniform(0, 0.25)),
        ),
        optics=OpticsOptions(
            photons=float(np.exp(rng.uniform(np.log(40), np.log(2000)))),
            background=float(np.exp(rng.uniform(np.log(2), np.log(60)))),
            psf_px=float(rng.uniform(0.6, 2.5)),
            haze=float(rng.uniform(0, 0.3)),
            brightness_deviation=float(rng.uniform(0.1, 0.6)),
            texture=float(rng.uniform(0, 0.4)),
        ),
    )
    made = Synthesizer.of(options).image(index)
    return Specimen.of(scaled_intensity(made.image[..., 0]), made.labels)


def train(
    real: Sequence[Specimen],
    nuclei: Path,
    out: Path,
    settings: FluorescenceSettings,
    limit: TimeLimit = NO_LIMIT,
) -> FluorescenceNetwork:
    """Train in `out`, from its checkpoint on, on `real` images and synthesized ones, until `limit`.

    Raises:
        InvalidRequestError: `out` holds a run with other settings.
        TrainingFailedError: the loss became NaN.
    """
    network = network_from_nuclei(nuclei, settings.seed).to(_device())
    heads = [value for name, value in network.named_parameters() if not name.startswith(("trunk.", "maps."))]
    base = [*network.trunk.parameters(), *network.maps.parameters()]
    optimiser = torch.optim.AdamW([{"params": heads}, {"params": base}], weight_decay=1e-4)
    start = _restored(out, network, optimiser, settings)
    # Large images hold more, so the draw goes by the square root of the area.
    made = synthesized_images(settings.synthesized, settings.seed)
    pool = [*real, *made]
    parts = _share(real, 1 - _SYNTHESIZED_SHARE), _share(made, _SYNTHESIZED_SHARE)
    shares = np.concatenate(parts).tolist()
    crops = CropDraw(pool, shares, settings.batch, settings.seed)
    with prefetched(crops, stop=settings.steps, in_processes=_device().type == "cuda") as draw:
        _train_steps(network, optimiser, draw, range(start, settings.steps), out, settings, limit)
    return network.cpu()


def _train_steps(
    network: FluorescenceNetwork,
    optimiser: torch.optim.Optimizer,
    draw: Callable[[int], Crops],
    steps: range,
    out: Path,
    settings: FluorescenceSettings,
    limit: TimeLimit,
) -> None:
    began, losses = time.process_time(), list[float]()
    for step in steps:
        part = min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group, rate in zip(optimiser.param_groups, (_RATE, _TRUNK_RATE), strict=True):
            group["lr"] = rate * part
        loss = _loss(network, draw(step))
        if not math.isfinite(loss.item()):
            raise TrainingFailedError(f"The loss became {loss.item():g} at step {step}: use another --seed.")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        is_last = step + 1 == settings.steps or limit.is_over
        if (step + 1) % _CHECKPOINT_STEPS == 0 or is_last:
            _save(out, network, optimiser, settings, step + 1)
            sys.stdout.write(
                f"step {step + 1} loss {sum(losses) / len(losses):.4f} "
                f"{time.process_time() - began:.0f} s of CPU\n"
            )
            sys.stdout.flush()
            losses.clear()
        if is_last:
            _say_if_unfinished(step + 1, settings.steps)
            break


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _say_if_unfinished(done: int, steps: int) -> None:
    if done < steps:
        sys.stdout.write(f"stopped by the time limit at step {done} of {steps}: repeat the command to go on\n")


def _share(images: Sequence[Specimen], total: float) -> NDArray[np.float64]:
    sides = np.array([item.labels.size**0.5 for item in images])
    return total * sides / max(float(sides.sum()), 1.0)


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
    device = next(network.parameters()).device

    def on_device(array: NDArray[Any]) -> Tensor:
        """``(N, H, W, C)`` as float32 ``(N, C, H, W)``."""
        return torch.from_numpy(array).to(device).float().permute(0, 3, 1, 2)

    maps, probability, distances, flows = network(on_device(crops.images[..., None]))
    planes, inside = on_device(crops.planes), on_device(crops.inside[..., None])
    cell = (planes[:, :1] >= 127.5).float()
    depth = cell * planes[:, 1:2] / 255
    weight = inside * planes[:, 2:] / WEIGHT_UNIT
    entropy = functional.binary_cross_entropy_with_logits(maps, torch.cat([cell, depth], 1), reduction="none")
    found = maps[:, :1].sigmoid() * inside
    dice = 1 - (2 * (found * cell).sum() + 1) / ((found + cell).sum() + 1)
    of_maps = (weight * entropy).mean() + 0.5 * dice
    step = np.s_[:, :, ::GRID, ::GRID]
    peak = functional.binary_cross_entropy_with_logits(probability, depth[step], reduction="none")
    known = on_device(crops.known) * depth[step]
    off = (known * (distances - on_device(crops.distances)).abs()).sum() / known.sum().clamp(min=1)
    of_stars = (weight[step] * peak).mean() + 0.2 * off
    wanted = on_device(crops.flows).flip(1) * FLOW_SCALE
    seen = functional.binary_cross_entropy_with_logits(flows[:, 2:], cell, reduction="none")
    squares = (flows[:, :2] - wanted).square().mean(1, keepdim=True)
    of_flows = 0.5 * (inside * squares).mean() + (weight * seen).mean()
    total: Tensor = of_maps + of_stars + of_flows
    return total


def _state(out: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=True)
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


def _save(
    out: Path, network: FluorescenceNetwork, optimiser: Any, settings: FluorescenceSettings, step: int
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "settings": asdict(settings),
             "step": step}  # fmt: skip
    torch.save(state, out / (CHECKPOINT + ".partial"))
    (out / (CHECKPOINT + ".partial")).replace(out / CHECKPOINT)
