"""One slide as a job in this process: CPU seconds in all and of the networks, and the memory it takes.

`python -m benchmarks.jobs.one SLIDE` prints the figures as JSON; a process each, for memory to be its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.jobs.memory import peak_mib
from benchmarks.jobs.slides import MPP

from slidecascade import wire
from slidecascade.access.caller import ANYONE
from slidecascade.analysis.analyser import Analyser
from slidecascade.heaps import share_heaps
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.fields import FIELD_TILES
from slidecascade.jobs.records import JobRecord
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.choice import open_runner
from slidecascade.runners.runner import Runner, Unobserved, trim
from slidecascade.settings import Settings
from slidecascade.timing import Silent

_LOOK_S = 0.5
TILES: Final = "tile-job"
WORKING: Final = (TILES, "dbos-executor")
"""How the names of threads begin: those for tiles, and those for fields, their planning and the end of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A job; seconds from its submission to its end, `network_cpu_s` those within runs of networks.

    `work_cpu_s` are those of the threads that do the work; the others look at queues a few times a second, which
    adds up where other work on the machine makes a job take long.
    """

    side_px: int
    field_tiles: int
    fields: int
    cells: int
    wall_s: float
    cpu_s: float
    work_cpu_s: float
    network_cpu_s: float
    peak_mib: float
    idle_mib: float


class Timed:
    """A runner that sums up the CPU seconds of its runs; each runs in the thread that asks."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self.cpu_s = 0.0

    def run(self, model: str, inputs: Tensors) -> Tensors:
        started = time.thread_time()
        try:
            return self._runner.run(model, inputs)
        finally:
            seconds = time.thread_time() - started
            with self._lock:
                self.cpu_s += seconds

    def trim(self) -> None:
        trim(self._runner)

    def close(self) -> None:
        self._runner.close()


class Bench:
    """An analyser with a timed runner, and a desk on SQLite or on `url`; `field_tiles` of a field each way."""

    def __init__(
        self,
        slides: Path,
        jobs: Path,
        *,
        threads: int,
        url: str | None = None,
        field_tiles: int = FIELD_TILES,
    ) -> None:
        settings = Settings(slide_roots=(slides,), threads=threads, jobs_min_free_bytes=0, jobs_database_url=url)
        made: list[Timed] = []

        def make(packages: Iterable[ModelPackage]) -> Runner:
            made.append(Timed(partial(open_runner, settings=settings, observer=Unobserved())(packages)))
            return made[0]

        self.analyser = Analyser(settings, observer=Silent(), make_runner=make)
        self.networks = made[0]
        jobs.mkdir(parents=True, exist_ok=True)
        self.desk = Desk(self.analyser, settings, jobs, field_tiles=field_tiles)
        self.desk.start()

    def submit(self, slide: str, *, mpp: float = MPP) -> str:
        request = wire.JobRequest(pipeline="nash", slide=slide, mpp=mpp)
        return self.desk.submit(request, ANYONE, request_id="bench", key=None)[0].id

    def ended(self, job: str) -> JobRecord:
        """The job, when it has ended.

        Raises:
            SystemExit: it has failed.
        """
        while not (record := self.desk.show(job, ANYONE)).ended:
            time.sleep(_LOOK_S)
        if record.status != "succeeded":
            raise SystemExit(f"The job has {record.status}: {record.failure}")
        return record

    def close(self) -> None:
        self.desk.stop()
        self.analyser.close()


class WithoutPandas:
    """pyarrow imports pandas where it is installed, half a second; the service's requirements do not have it."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Raises ModuleNotFoundError for pandas; other modules are left to the other finders."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def measure(slide: Path, *, threads: int, field_tiles: int = FIELD_TILES) -> Figures:
    """Run the slide as a job and measure."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(slide.parent, Path(folder) / "jobs", threads=threads, field_tiles=field_tiles)
        idle_mib = peak_mib()
        before = time.process_time(), time.perf_counter(), bench.networks.cpu_s, work_cpu_s()
        record = bench.ended(bench.submit(slide.name))
        figures = Figures(
            side_px=int(slide.stem),
            field_tiles=field_tiles,
            fields=record.fields_done,
            cells=record.cells,
            cpu_s=round(time.process_time() - before[0], 2),
            work_cpu_s=round(work_cpu_s() - before[3], 2),
            wall_s=round(time.perf_counter() - before[1], 2),
            network_cpu_s=round(bench.networks.cpu_s - before[2], 2),
            peak_mib=round(peak_mib()),
            idle_mib=round(idle_mib),
        )
        bench.close()
    return figures


def work_cpu_s(*names: str) -> float:
    """CPU seconds so far, by the kernel, of threads whose name begins so; by default of all that work on jobs."""
    ticks = 0
    for thread in threading.enumerate():
        if thread.name.startswith(names or WORKING) and thread.native_id is not None:
            stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
            ticks += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, help="a slide named by its side in pixels, such as 4096.tif")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--field-tiles", type=int, default=FIELD_TILES, help="tiles of a field each way")
    options = parser.parse_args()
    sys.meta_path.insert(0, WithoutPandas())
    share_heaps()  # as `slidecascade worker` does
    print(json.dumps(asdict(measure(options.slide, threads=options.threads, field_tiles=options.field_tiles))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
