"""What the nuclei network costs on a tile, beside the reference U-Net exported the same way.

`python -m benchmarks.runners.tile_time --out FILE` runs both in turn on the same 256 x 256 px tile, one thread
each, after a warm-up. The reference has 16-32-64-128-256 filters, `pixels / 255` inside, and random weights: its
time does not depend on them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks import record

from slidecascade.models.repository import load_repository
from slidecascade.privacy import forbid_telemetry
from slidecascade.settings import bundled_models_dir
from slidecascade_convert import architectures
from slidecascade_convert.keras import onnx_from_keras

forbid_telemetry()
import onnxruntime  # noqa: E402

_NETWORK: Final = "nuclei-unet"
_SIDE_PX: Final = 256
_WARM_UP: Final = 5


def session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def measure(sessions: dict[str, onnxruntime.InferenceSession], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, the contenders in turn."""
    tile = np.random.default_rng(0).integers(0, 256, (1, _SIDE_PX, _SIDE_PX, 3), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for round_number in range(_WARM_UP + rounds):
        for name, contender in sessions.items():
            started = time.perf_counter()
            contender.run(None, {"image": tile})
            if round_number >= _WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runners.tile_time", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "tile-time.json")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    package = load_repository(bundled_models_dir())[_NETWORK]
    reference = onnx_from_keras(architectures.build("unet-256", 1), scale=1.0, output_name="maps", as_bytes=True)
    sessions = {_NETWORK: session(package.read()), "reference": session(reference.SerializeToString())}
    seconds = measure(sessions, arguments.rounds)
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
    document: dict[str, Any] = {
        "tile_px": _SIDE_PX,
        "rounds": arguments.rounds,
        "sha256": package.spec.sha256,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "onnxruntime": version("onnxruntime"),
        "ms": {
            name: {
                "median": round(1000 * statistics.median(values), 2),
                "min": round(1000 * min(values), 2),
                "max": round(1000 * max(values), 2),
            }
            for name, values in seconds.items()
        },
        "over_reference": round(statistics.median(ratios), 3),
    }
    record.write(arguments.out, document, provenance)
    print(json.dumps(document["ms"]), document["over_reference"])


if __name__ == "__main__":
    main()
