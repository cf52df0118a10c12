"""What a region costs on an NVIDIA GPU, how busy the GPU is meanwhile, and what TensorRT gains over CUDA.

`make bench-gpu` writes `benchmarks/results/gpu.json`. Without a GPU it says so and exits with 0. TensorRT is
measured where its libraries are installed, which the [gpu] extra does not bring.

TensorRT was never run: its libraries were not there. The tests run the same measurement on the CPU, with
a stand-in for `nvidia-smi`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import record
from benchmarks.gpu.card import Busy, Card, find_card, watched

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.cores import usable_cores
from slidecascade.errors import SettingsError
from slidecascade.models.repository import ModelPackage
from slidecascade.outputs import png
from slidecascade.runners.local import Device, LocalRunner, Placement
from slidecascade.runners.runner import Unobserved
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from slidecascade_render.liver.tissue import TissueOptions, render

NO_GPU = "There is no NVIDIA GPU here (nvidia-smi is missing or lists none): nothing was measured."
MPP = 0.25
TILE_PX = 512
WARM_UP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`callers` that each have one region analysed after another; `batches` holds runs by network and size."""

    callers: int
    regions: int
    p50_s: float
    p95_s: float
    min_s: float
    max_s: float
    megapixels_per_s: float
    cells_per_s: float
    gpu: Busy
    batches: dict[str, dict[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One device: seconds until it could work, sha256 of models, cells by class, networks alone, loads."""

    start_s: float
    models: dict[str, str]
    cells: dict[str, int]
    images_per_s: dict[str, dict[int, float]]
    loads: list[Load]


@dataclass
class Sizes(Unobserved):
    """Counts runs by network and batch size."""

    seen: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def ran(self, model: str, *, size: int, seconds: float) -> None:  # noqa: ARG002 - of `RunObserver`
        self.seen[model][size] += 1

    def take(self) -> dict[str, dict[int, int]]:
        """What was counted since the last time."""
        taken = {model: dict(sorted(counts.items())) for model, counts in sorted(self.seen.items())}
        self.seen.clear()
        return taken


def load(analyser: Analyser, task: RegionTask, sizes: Sizes, *, callers: int, rounds: int, gpu: int) -> Load:
    """`rounds` regions from each of `callers` threads."""

    def call(_number: int) -> list[tuple[float, int]]:
        found = []
        for _ in range(rounds):
            started = time.perf_counter()
            report = analyser.run(task, Control())
            found.append((time.perf_counter() - started, len(report.cells.instances)))
        return found

    sizes.take()
    with ThreadPoolExecutor(callers) as pool, watched(gpu) as seen:
        started = time.perf_counter()
        done = [item for items in pool.map(call, range(callers)) for item in items]
        elapsed = time.perf_counter() - started
    seconds = np.array([item[0] for item in done])
    pixels = task.region_l0.width * task.region_l0.height * len(done)
    return Load(
        callers=callers,
        regions=len(done),
        p50_s=round(float(np.percentile(seconds, 50)), 4),
        p95_s=round(float(np.percentile(seconds, 95)), 4),
        min_s=round(float(seconds.min()), 4),
        max_s=round(float(seconds.max()), 4),
        megapixels_per_s=round(pixels / elapsed / 1e6, 2),
        cells_per_s=round(sum(item[1] for item in done) / elapsed, 1),
        gpu=seen[0],
        batches=sizes.take(),
    )


def alone(
    packages: Sequence[ModelPackage], placement: Placement, *, batches: Sequence[int], rounds: int
) -> dict[str, dict[int, float]]:
    """Images per second of each network by batch size, called directly, one call after the other."""
    runner = LocalRunner(packages, placement=placement, warm_up=batches)
    found: dict[str, dict[int, float]] = {}
    for package in packages:
        signature = package.spec.signature
        found[package.spec.name] = {}
        for batch in batches:
            shapes = signature.input_shapes(batch=batch, side_px=TILE_PX)
            rng = np.random.default_rng(0)
            images = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
            seconds = []
            for _ in range(WARM_UP + rounds):
                started = time.perf_counter()
                runner.run(package.spec.name, images)
                seconds.append(time.perf_counter() - started)
            found[package.spec.name][batch] = round(batch / statistics.median(seconds[WARM_UP:]), 1)
    runner.close()
    return found


def measure(
    device: Device,
    image: bytes,
    *,
    pipeline: str,
    callers: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    threads: int,
    gpu: int,
    engines: Path,
) -> Figures:
    """Everything on one device.

    Raises:
        SettingsError: when the device cannot be used.
    """
    settings = Settings(device=device, gpus=str(gpu), threads=threads, engine_dir=engines, batching="on")
    sizes = Sizes()
    started = time.perf_counter()
    analyser = Analyser(settings, observer=Silent(), runs=sizes)
    start_s = time.perf_counter() - started
    task = analyser.prepare(wire.RegionRequest(pipeline=pipeline, mpp=MPP), image, Control())
    analysis = analyser.run(task, Control()).analysis
    packages = [analyser.package(model.name) for model in analysis.models]
    for _ in range(WARM_UP):
        analyser.run(task, Control())
    loads = [load(analyser, task, sizes, callers=count, rounds=rounds, gpu=gpu) for count in callers]
    analyser.close()
    placement = Placement(device=device, gpu=gpu, engine_dir=engines)
    return Figures(
        start_s=round(start_s, 2),
        models={model.name: model.sha256 for model in analysis.models},
        cells=analysis.counts,
        images_per_s=alone(packages, placement, batches=sorted(batches), rounds=rounds),
        loads=loads,
    )


def compared(slower: Figures, faster: Figures) -> dict[int, float]:
    """By number of callers: how many times as long a region takes on the first as on the second."""
    return {
        one.callers: round(one.p50_s / other.p50_s, 3)
        for one, other in zip(slower.loads, faster.loads, strict=True)
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("onnxruntime-gpu", "onnxruntime", "numpy", "slidecascade"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def run(arguments: argparse.Namespace, card: Card) -> dict[str, Any]:
    """What is written to the file.

    Raises:
        SettingsError: when the first device cannot be used.
    """
    tissue = render(TissueOptions(seed=11, mpp=MPP), width_px=arguments.width, height_px=arguments.height)
    image = png.encode(tissue.image)
    devices: dict[str, Figures] = {}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as engines:
        for device in arguments.devices:
            try:
                devices[device] = measure(
                    device,
                    image,
                    pipeline=arguments.pipeline,
                    callers=arguments.callers,
                    batches=arguments.batches,
                    rounds=arguments.rounds,
                    threads=arguments.threads,
                    gpu=arguments.gpu,
                    engines=Path(engines),
                )
            except SettingsError as error:
                if not devices:
                    raise
                refused[device] = error.detail
    return {
        "card": asdict(card),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": usable_cores(),
            "system": platform.platform(),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": versions(),
        "models": next(iter(devices.values())).models,
        "pipeline": arguments.pipeline,
        "region_px": [arguments.width, arguments.height],
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "warm_up_regions": 1 + WARM_UP,
        "devices": {name: asdict(figures) for name, figures in devices.items()},
        "refused": refused,
        "cuda_over_tensorrt": compared(devices["cuda"], devices["tensorrt"])
        if {"cuda", "tensorrt"} <= devices.keys()
        else None,
    }


def table(figures: dict[str, Any]) -> str:
    """The loads, a line each."""
    lines = [f"{figures['card']['name']}, {figures['pipeline']}, {figures['region_px']} px, medians"]
    for device, found in figures["devices"].items():
        lines += [
            f"{device:>8} {item['callers']:3d} callers  {item['p50_s']:7.3f} s  {item['cells_per_s']:9.0f} cells/s"
            f"  GPU busy {item['gpu']['share']:4.0%}"
            for item in found["loads"]
        ]
    lines += [f"{device:>8} {reason}" for device, reason in figures["refused"].items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "gpu.json")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU")
    parser.add_argument("--devices", nargs="+", choices=("cuda", "tensorrt", "cpu"), default=["cuda", "tensorrt"])
    parser.add_argument("--pipeline", default="nash")
    parser.add_argument("--width", type=int, default=2048, help="of the rendered region, in pixels")
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="for the networks alone")
    parser.add_argument("--rounds", type=int, default=9, help="regions of each caller")
    parser.add_argument("--threads", type=int, default=16, help="tiles in flight")
    arguments = parser.parse_args()
    card = find_card(arguments.gpu)
    if card is None:
        print(NO_GPU)
        return 0
    provenance = record.Provenance.here()
    try:
        figures = run(arguments, card)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    record.write(arguments.out, figures, provenance)
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
