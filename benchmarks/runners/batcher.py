"""What the batcher costs a caller alone, and what it gains many."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from benchmarks import record

from slidecascade.cores import usable_cores
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import load_repository
from slidecascade.models.tensors import Tensors
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner, Unobserved
from slidecascade.runners.schedule import Limits
from slidecascade.settings import bundled_models_dir

CALLERS = (1, 2, 4, 8, 16)
FIXED_S, PER_ITEM_S = 0.005, 0.0002
MODEL = "nash-cell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`callers` threads that each send one image, wait for the answer and send the next.

    Processor time stands beside the clock's: it says the same on a machine that others use.
    """

    callers: int
    images_per_s: float
    p50_ms: float
    p95_ms: float
    mean_batch: float
    cpu_ms_per_image: float


class Device:
    """Does nothing for as long as a GPU would be busy; one batch at a time."""

    def run(self, model: str, inputs: Tensors) -> Tensors:  # noqa: ARG002 - of `Runner`
        time.sleep(FIXED_S + PER_ITEM_S * batch_of(inputs))
        return _nothing(inputs)

    def close(self) -> None: ...


class Nothing(Device):
    """Answers at once: what is measured is the way there and back."""

    def run(self, model: str, inputs: Tensors) -> Tensors:  # noqa: ARG002 - of `Runner`
        return _nothing(inputs)


def _nothing(inputs: Tensors) -> Tensors:
    return {"probabilities": np.zeros((batch_of(inputs), 3), np.float32)}


class Sizes(Unobserved):
    """Remembers how large batches were."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def ran(self, model: str, *, size: int, seconds: float) -> None:  # noqa: ARG002 - of `RunObserver`
        self.seen.append(size)


def timed(run: Callable[[], object], calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def added_latency(calls: int) -> dict[str, float]:
    """Milliseconds of a call through the batcher, less those of the bare call, one caller alone."""
    image = {"image": np.zeros((1, 72, 72, 3), np.uint8)}
    batcher = Batcher([Nothing()])
    bare = timed(lambda: Nothing().run("m", image), calls)
    through = timed(lambda: batcher.run("m", image), calls)
    batcher.close()
    return {
        f"p{part}_ms": round(float(np.percentile(through, part) - np.percentile(bare, part)) * 1e3, 4)
        for part in (5, 50, 95)
    }


def load(runner: Runner, callers: int, *, calls: int, sizes: Sequence[int] | None = None) -> Load:
    """The second half of what `callers` callers measure; `sizes` grows by what the runner's batches held."""
    image = {"image": np.zeros((1, 72, 72, 3), np.uint8)}
    with ThreadPoolExecutor(callers) as pool:
        for half in range(2):
            seen = len(sizes or ())
            started, worked = time.perf_counter(), time.process_time()
            seconds = np.concatenate(
                list(pool.map(lambda _: timed(lambda: runner.run(MODEL, image), calls // 2), range(callers)))
            )
            elapsed, worked = time.perf_counter() - started, time.process_time() - worked
            if half:
                batches = (sizes or (1,))[seen if sizes else 0 :]
    return Load(
        callers=callers,
        images_per_s=round(len(seconds) / elapsed, 1),
        p50_ms=round(float(np.percentile(seconds, 50)) * 1e3, 2),
        p95_ms=round(float(np.percentile(seconds, 95)) * 1e3, 2),
        mean_batch=round(float(np.mean(batches)), 2),
        cpu_ms_per_image=round(worked / len(seconds) * 1e3, 3),
    )


def device_loads(calls: int) -> list[Load]:
    """Loads on a device whose batches cost little more than one image."""
    found = []
    for callers in CALLERS:
        sizes = Sizes()
        batcher = Batcher([Device()], limits=Limits(padded=True), observer=sizes)
        found.append(load(batcher, callers, calls=calls, sizes=sizes.seen))
        batcher.close()
    return found


def cpu_loads(calls: int) -> dict[str, list[Load]]:
    """Loads on this machine's cores, with and without batching."""
    packages = [load_repository(bundled_models_dir())[MODEL]]
    direct: list[Load] = []
    batched: list[Load] = []
    for callers in CALLERS[:4]:
        runner = LocalRunner(packages)
        direct.append(load(runner, callers, calls=calls))
        sizes = Sizes()
        batcher = Batcher([runner] * usable_cores(), observer=sizes)
        batched.append(load(batcher, callers, calls=calls, sizes=sizes.seen))
        batcher.close()
    return {"direct": direct, "batched": batched}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runners.batcher", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "batcher.json")
    parser.add_argument("--calls", type=int, default=100, help="per caller")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    package = load_repository(bundled_models_dir())[MODEL]
    figures = {
        "machine": {
            "cores": usable_cores(),
            "system": platform.platform(),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")}
        | {"python": platform.python_version()},
        "model": {"name": MODEL, "sha256": package.spec.sha256},
        "added_latency_alone": added_latency(10 * arguments.calls),
        "device": {"fixed_s": FIXED_S, "per_item_s": PER_ITEM_S},
        "device_loads": [dataclasses.asdict(item) for item in device_loads(arguments.calls)],
        "cpu_loads": {
            name: [dataclasses.asdict(item) for item in loads]
            for name, loads in cpu_loads(arguments.calls).items()
        },
    }
    record.write(arguments.out, figures, provenance)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
