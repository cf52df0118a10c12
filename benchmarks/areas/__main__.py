"""``python -m benchmarks.areas``: what areas cost beyond their network, and memory by the size of the slide.

Times are CPU seconds of this process: they depend less on what else runs on the machine than wall time does.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks import record

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.local import LocalRunner
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_render.kidney.tissue import render
from slidecascade_render.slides import Rgb, write_pyramid

PIPELINE: Final = "glomeruli"
MPP: Final = 8.0
_SOURCE_PX: Final = 768
_SEED: Final = 1

_PEAK: Final = """
import resource, sys
from slidecascade.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
raise SystemExit(code)
"""


class _Recorder:
    """A local runner that keeps its inputs."""

    def __init__(self, packages: Iterable[ModelPackage]) -> None:
        self.calls: list[tuple[str, Tensors]] = []
        self.runner = LocalRunner(list(packages))

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.calls.append((model, {name: array.copy() for name, array in inputs.items()}))
        return self.runner.run(model, inputs)

    def close(self) -> None:
        self.runner.close()


def measure_ratio(
    slide: Path, rounds: int, *, pipeline: str = PIPELINE, **settings_fields: object
) -> dict[str, Any]:
    """CPU seconds of the analysis of `slide` and of its network alone on the same inputs, in turn."""
    recorders: list[_Recorder] = []

    def make_recorder(packages: Iterable[ModelPackage]) -> _Recorder:
        recorders.append(_Recorder(packages))
        return recorders[0]

    settings = read_settings(slide_roots=(slide.parent,), threads=1, **settings_fields)
    analyser = Analyser(settings, observer=Silent(), make_runner=make_recorder)
    request = wire.parse_request({"pipeline": pipeline, "slide": slide.name})
    task = analyser.prepare(request, None, Control(), is_bounded=False)
    found = analyser.run(task, Control()).analysis
    calls = list(recorders[0].calls)
    seconds: dict[str, list[float]] = {"network": [], "analyse": []}
    for _ in range(rounds):
        seconds["network"].append(_cpu_s(lambda: [recorders[0].runner.run(*call) for call in calls]))
        seconds["analyse"].append(_cpu_s(lambda: analyser.run(task, Control())))
    analyser.close()
    ratios = [all_s / net_s for all_s, net_s in zip(seconds["analyse"], seconds["network"], strict=True)]
    return {
        "areas": sum(found.counts.values()),
        "images": sum(len(next(iter(inputs.values()))) for _, inputs in calls),
        "tiles": found.tiles.total,
        "rounds": rounds,
        "network_cpu_s": round(statistics.median(seconds["network"]), 3),
        "analyse_cpu_s": round(statistics.median(seconds["analyse"]), 3),
        "analyse_over_network": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def measure_memory(slide: Path, out: Path, *, pipeline: str = PIPELINE) -> int:
    """Peak MiB of ``slidecascade analyze`` on all of `slide`."""
    call = ["analyze", str(slide), "--pipeline", pipeline, "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", _PEAK, *call], capture_output=True, text=True, check=True)
    return int(done.stderr.strip().splitlines()[-1])


def write_slide(path: Path, side_px: int) -> None:
    """Rendered kidney, repeated beyond `_SOURCE_PX`, so that rendering takes no longer than measuring."""
    source = render(_SEED, mpp=MPP, x_px=0, y_px=0, width_px=_SOURCE_PX, height_px=_SOURCE_PX).image

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        rows, columns = (
            np.arange(start, start + count) % _SOURCE_PX for start, count in ((y_px, height_px), (x_px, width_px))
        )
        return np.ascontiguousarray(source[np.ix_(rows, columns)])

    write_pyramid(path, draw, side_px, side_px, mpp=MPP)


def main() -> None:
    """Measure and write ``areas.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.areas", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for the figures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096, 8192], help="of slides, px at 8 um")
    given = parser.parse_args()
    provenance = record.Provenance.here()
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for side_px in given.sides:
            slide = Path(folder) / f"{side_px}.tiff"
            write_slide(slide, side_px)
            peaks[str(side_px)] = measure_memory(slide, Path(folder) / f"out-{side_px}")
        figures = measure_ratio(Path(folder) / f"{given.sides[0]}.tiff", given.rounds)
    figures |= {"pipeline": PIPELINE, "side_px": given.sides[0], "peak_mib": peaks}
    record.write(given.out / "areas.json", figures, provenance)


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
