"""``slidecascade bench region``: the cost of a region in addition to its networks."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.commands.arguments import whole_number
from slidecascade.commands.millioncells import Writing, measure_writing
from slidecascade.commands.service_process import served
from slidecascade.cores import usable_cores
from slidecascade.errors import InvalidRequestError
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.outputs.cells import geojson
from slidecascade.runners.local import LocalRunner
from slidecascade.settings import read_settings
from slidecascade.staging import writing_to
from slidecascade.timing import Silent

MPP = 0.25
WARM_UP_ROUNDS = 1
REPEATS_FOR_MEMORY = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="region")
    region = actions.add_parser("region", help="time analysis, HTTP and the networks alone on one rendered region")
    region.add_argument("--json", action="store_true", help="print JSON instead of a table")
    region.add_argument("--out", type=Path, help="write the JSON to this file as well")
    region.add_argument(
        "--size", type=whole_number(64), default=2048, help="side of the region in pixels at 0.25 um/px"
    )
    region.add_argument(
        "--rounds", type=whole_number(1), default=9, help="measured rounds; each runs all contenders in turn"
    )
    region.add_argument("--pipeline", default="nash", help="default: nash")


def run(arguments: argparse.Namespace) -> int:
    out: Path | None = arguments.out
    if out is not None:
        with writing_to(out.parent):  # fails before the measurement, which takes minutes
            out.parent.mkdir(parents=True, exist_ok=True)
    figures = measure_region(size_px=arguments.size, rounds=arguments.rounds, pipeline=arguments.pipeline)
    text = json.dumps(dataclasses.asdict(figures), indent=2) + "\n"
    if out is not None:
        with writing_to(out.parent):
            out.write_text(text, encoding="utf-8")
    sys.stdout.write(text if arguments.json else _table(figures))
    return 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Statistics of seconds over the rounds."""

    median_s: float
    min_s: float
    max_s: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        return cls(round(statistics.median(seconds), 4), round(min(seconds), 4), round(max(seconds), 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFigures:
    """The results, with the parameters to reproduce them.

    `analyse` is from decoded pixels to the analysis; `http` from a PNG upload to
    the received GeoJSON. Both ratios are medians of the ratios of rounds, which are robust against changes in
    the speed of the machine.

    `network` is ONNX Runtime alone on the inputs of the networks in `analyse`, in the better of
    two configurations: one single-threaded session shared by a thread per core, or sequential calls of a
    multi-threaded session.

    `head_share` is the fraction of the work spent on decoding, outlines and GeoJSON;
    `four_areas_over_one` is the relative time of four times the area; `writing` is for a million cells.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    models: dict[str, str]
    pipeline: str
    region_px: int
    cells: int
    tiles: int
    rounds: int
    network_inputs: dict[str, int]
    analyse: Timing
    http: Timing
    network: Timing
    network_setup: str
    analyse_over_network: float
    http_over_network: float
    head_share: float
    four_areas_over_one: float
    writing: Writing
    stage_seconds: dict[str, float]
    memory_mib: dict[str, float]


class _Recorder:
    """A local runner that records its inputs."""

    def __init__(self, packages: Iterable[ModelPackage]) -> None:
        self.packages = list(packages)
        self.calls: list[tuple[str, Tensors]] = []
        self.recording = False
        self._runner = LocalRunner(self.packages)

    def run(self, model: str, inputs: Tensors) -> Tensors:
        if self.recording:
            self.calls.append((model, {name: array.copy() for name, array in inputs.items()}))
        return self._runner.run(model, inputs)

    def close(self) -> None:
        self._runner.close()


def measure_region(*, size_px: int, rounds: int, pipeline: str) -> RegionFigures:
    """Measure a square region of rendered tissue in `rounds` rounds of all contenders."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    tissue = render(TissueOptions(seed=11, mpp=MPP), width_px=size_px, height_px=size_px)
    png = _png(tissue.image)
    request = wire.RegionRequest(pipeline=pipeline, mpp=MPP)
    recorders: list[_Recorder] = []

    def make_recorder(packages: Iterable[ModelPackage]) -> _Recorder:
        recorders.append(_Recorder(packages))
        return recorders[0]

    analyser = Analyser(read_settings(), observer=Silent(), make_runner=make_recorder)
    recorder = recorders[0]
    recorder.recording = True
    task = analyser.prepare(request, png, Control())
    report = analyser.run(task, Control())
    recorder.recording = False
    analysis = report.cells
    if not len(analysis.instances):
        raise InvalidRequestError(f"A region of {size_px} px contains no cells: use a larger --size.")
    used = {model.name for model in report.analysis.models}
    packages = [package for package in recorder.packages if package.spec.name in used]
    cores = usable_cores()
    alone, spread = LocalRunner(packages), LocalRunner(packages, threads_per_call=cores)
    pool = ThreadPoolExecutor(cores)
    large = analyser.prepare(request, _png(_four_times(tissue.image)), Control())
    with served({}) as (url, process), httpx.Client(timeout=600, trust_env=False) as client:
        contenders: dict[str, Callable[[], object]] = {
            "analyse": lambda: analyser.run(task, Control()),
            "a thread per core": lambda: list(pool.map(lambda call: alone.run(*call), recorder.calls)),
            "a call at a time": lambda: [spread.run(*call) for call in recorder.calls],
            "http": lambda: _post(client, url, request, png),
            "four areas": lambda: analyser.run(large, Control()),
            "geojson": lambda: b"".join(geojson.encode(analysis)),
        }
        seconds = _alternate(contenders, rounds)
        memory = _memory(lambda: _post(client, url, request, png), process.pid)
    writing = measure_writing(analysis)
    setup = min(("a thread per core", "a call at a time"), key=lambda name: statistics.median(seconds[name]))
    return RegionFigures(
        machine={"processor": _processor(), "cores": cores, "system": platform.platform()},
        versions={name: version(name) for name in ("onnxruntime", "opencv-python-headless", "numpy", "bentoml")},
        models={package.spec.name: package.spec.sha256 for package in packages},
        pipeline=pipeline,
        region_px=size_px,
        cells=len(analysis.instances),
        tiles=report.analysis.tiles.total,
        rounds=rounds,
        network_inputs={
            name: sum(batch_of(inputs) for model, inputs in recorder.calls if model == name) for name in used
        },
        analyse=Timing.of(seconds["analyse"]),
        http=Timing.of(seconds["http"]),
        network=Timing.of(seconds[setup]),
        network_setup=setup,
        analyse_over_network=_ratio(seconds["analyse"], seconds[setup]),
        http_over_network=_ratio(seconds["http"], seconds[setup]),
        head_share=_head_share(report.analysis.timings_s, statistics.median(seconds["geojson"])),
        four_areas_over_one=_ratio(seconds["four areas"], seconds["analyse"]),
        writing=writing,
        stage_seconds={name: round(value, 4) for name, value in report.analysis.timings_s.items()},
        memory_mib=memory,
    )


def _png(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])


def _four_times(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image and its mirror images: four times the area with the same number of cells in each part."""
    wide = np.concatenate([image, image[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]], axis=0)


def _head_share(timings_s: Mapping[str, float], geojson_s: float) -> float:
    work = {name: seconds for name, seconds in timings_s.items() if name != "total"} | {"geojson": geojson_s}
    return round((work["decode"] + geojson_s) / sum(work.values()), 3)


def _alternate(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each contender once per round, so that changes in the machine's speed affect all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_index in range(WARM_UP_ROUNDS + rounds):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            if round_index >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _ratio(numerators: list[float], denominators: list[float]) -> float:
    pairs = zip(numerators, denominators, strict=True)
    return round(statistics.median(numerator / denominator for numerator, denominator in pairs), 3)


def _post(client: httpx.Client, url: str, request: wire.RegionRequest, png: bytes) -> bytes:
    answer = client.post(
        f"{url}/v1/regions",
        files={
            "request": ("request.json", request.model_dump_json(exclude_none=True), "application/json"),
            "image": ("image.png", png, "image/png"),
        },
    )
    answer.raise_for_status()
    return answer.content


def _memory(work: Callable[[], object], pid: int) -> dict[str, float]:
    """Resident memory of the service's processes after a few and after many regions, and the peak, in MiB."""
    before = _resident(pid, "VmRSS")
    for _ in range(REPEATS_FOR_MEMORY):
        work()
    after = _resident(pid, "VmRSS")
    return {
        "before": before,
        f"after_{REPEATS_FOR_MEMORY}_regions": after,
        "growth_percent": round(100 * (after / before - 1), 2),
        "peak": _resident(pid, "VmHWM"),
    }


def _resident(pid: int, field: str) -> float:
    """MiB of a process and all its descendants, from ``/proc``; 0 of one that has ended."""
    total = 0.0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                total += int(line.split()[1]) / 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has ended meanwhile
                for child in (task / "children").read_text(encoding="ascii").split():
                    total += _resident(int(child), field)
    return round(total, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or os.uname().machine
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _table(figures: RegionFigures) -> str:
    memory = figures.memory_mib
    return "\n".join(
        (
            f"{figures.pipeline}, {figures.region_px} x {figures.region_px} px, {figures.cells} cells,",
            f"{figures.tiles} tiles, {figures.machine['cores']} cores, median of {figures.rounds} rounds",
            f"networks alone  {figures.network.median_s:8.3f} s   ({figures.network_setup})",
            f"analyse         {figures.analyse.median_s:8.3f} s   {figures.analyse_over_network:.2f} x",
            f"HTTP            {figures.http.median_s:8.3f} s   {figures.http_over_network:.2f} x",
            f"decoding, outlines and GeoJSON {figures.head_share:.1%} of the work",
            f"four times the area {figures.four_areas_over_one:.2f} x",
            f"a million cells as .geojson.gz: {figures.writing.cpu_s:.1f} s, {figures.writing.memory_mib:.0f} MiB",
            f"memory          {memory['peak']:8.0f} MiB at most, {memory['growth_percent']:+.1f} %",
            f"                after {REPEATS_FOR_MEMORY} regions\n",
        )
    )
