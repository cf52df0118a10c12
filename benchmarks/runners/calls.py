"""What the way to a model's own process costs: calls to networks that do next to nothing, and whole regions."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from benchmarks import record
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cores import usable_cores
from slidecascade.heads.table import outputs_of
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.spec import ModelClass, SegmenterSpec
from slidecascade.models.tensors import rgb_image
from slidecascade.runners.bento import BentoRunner
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner
from slidecascade.settings import Settings, bundled_models_dir
from slidecascade.timing import Silent
from slidecascade_convert.package import ServedGraph, write_package
from slidecascade_render.liver.tissue import TissueOptions, render

CALLS = {"tile of 1024 x 1024 px": ("first", 1, 1024), "64 crops of 72 x 72 px": ("first", 64, 72)}
SIDE_PX = 1024


def write_network(folder: Path) -> None:
    """A package whose network returns the first two channels of its images."""
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("from", 0), ("to", 2), ("axis", 3))
    ]
    graph = helper.make_graph(
        [helper.make_node("Slice", ["image", "from", "to", "axis"], ["maps"])],
        "first",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("maps", TensorProto.UINT8, ["N", "H", "W", 2])],
        constants,
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    served = ServedGraph.of(made)
    spec = SegmenterSpec(
        name="first",
        version=1,
        task="segment",
        head="unet",
        mpp=0.5,
        inputs=(rgb_image(multiple_of=8),),
        outputs=outputs_of("unet", ["Cell"]),
        halo_px=64,
        classes=(ModelClass(name="Cell", color=(0, 0, 0)),),
        licence="Apache-2.0",
        training_data=(),
        sha256=served.sha256,
    )
    write_package(folder, spec, served, "# first\n")


@contextmanager
def services_of(settings: Settings) -> Iterator[Mapping[str, Any]]:
    """What `bentoml.depends` gives for the models of `settings`, whose processes run meanwhile."""
    os.environ["SLIDECASCADE_MODELS_DIR"] = str(settings.models_dir)
    os.environ["SLIDECASCADE_RUNNER"] = "bento"
    from slidecascade.hosting.bento_entry import make_service
    from slidecascade.hosting.supervisor import ModelProcesses

    service = make_service(settings)
    with ModelProcesses(service):
        service.inject_config()
        yield {model: getattr(service.inner, name).get() for model, name in service.inner.dependencies.items()}


def cpu_s() -> float:
    """Processor time of this process and of those it has started."""
    tasks = Path("/proc/self/task").iterdir()
    pids = {"self", *(pid for task in tasks for pid in (task / "children").read_text().split())}
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object], *, times: int) -> dict[str, float]:
    work()
    worked, seconds = cpu_s(), []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    worked = (cpu_s() - worked) / times
    names = ("min_ms", "p50_ms", "p95_ms")
    found = dict(zip(names, np.percentile(seconds, (0, 50, 95)) * 1e3, strict=True)) | {"cpu_ms": worked * 1e3}
    return {name: round(float(value), 2) for name, value in found.items()}


def calls(times: int) -> dict[str, Any]:
    """Calls of one caller to a network that does nothing, here and in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_network(Path(folder))
        settings = Settings(models_dir=Path(folder), runner="bento")
        packages = load_repository(settings.models_dir).values()
        with services_of(settings) as services:
            runners: dict[str, Runner] = {
                "local": LocalRunner(packages),
                "bento": BentoRunner(packages, services),
            }
            found = {}
            for name, (model, count, side) in CALLS.items():
                images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
                found[name] = {
                    kind: timed(partial(runner.run, model, {"image": images}), times=times)
                    for kind, runner in runners.items()
                }
            for runner in runners.values():
                runner.close()
    return found


def regions(times: int) -> dict[str, Any]:
    """A rendered region with the pipeline `nash`; the answers are compared."""
    image: NDArray[np.uint8] = render(TissueOptions(seed=1, mpp=0.25), width_px=SIDE_PX, height_px=SIDE_PX).image
    png = bytes(cv2.imencode(".png", image[:, :, ::-1])[1])
    request = wire.RegionRequest(pipeline="nash", mpp=0.25)
    settings = Settings(models_dir=bundled_models_dir(), runner="bento")
    found: dict[str, Any] = {}
    with services_of(settings) as services:

        def bento(packages: Iterable[ModelPackage]) -> Runner:
            return BentoRunner(packages, services)

        cells = []
        for kind, make in (("local", LocalRunner), ("bento", bento)):
            analyser = Analyser(settings, observer=Silent(), make_runner=make)
            cells.append(analyser.analyse(request, png, Control()).cells.instances)
            found[kind] = timed(lambda: analyser.analyse(request, png, Control()), times=times)  # noqa: B023
            analyser.close()
    equal = zip(cells[0].probabilities, cells[1].probabilities, strict=True)
    same = np.array_equal(cells[0].centroids, cells[1].centroids)
    found["cells"] = len(cells[0])
    found["equal"] = same and all(np.array_equal(one, other, equal_nan=True) for one, other in equal)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runners.calls", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "runners.json")
    parser.add_argument("--times", type=int, default=100)
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    figures = {
        "machine": {
            "cores": usable_cores(),
            "system": platform.platform(),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": {name: version(name) for name in ("bentoml", "onnxruntime", "numpy")},
        "calls": calls(arguments.times),
        "region_1024": regions(max(3, arguments.times // 20)),
    }
    record.write(arguments.out, figures, provenance)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
