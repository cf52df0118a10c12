"""Regions that somebody posts without a pause, on an idle service and beside a job; and how fast the job is.

`python -m benchmarks.jobs.people SLIDE` prints the figures as JSON. Rounds alternate, so that other work on the
machine meets all of them: regions alone, jobs alone, both. Several jobs are queued, so that none of the rounds
outlasts them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.jobs.one import TILES, Bench, work_cpu_s
from benchmarks.jobs.slides import MPP

from slidecascade import wire
from slidecascade.access.caller import ANYONE
from slidecascade.cancellation import Control

REGION_PX: Final = 1024
JOBS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """p95 of regions, and the CPU seconds that jobs get in a second, alone and beside the regions."""

    regions: int
    idle_p95_s: float
    beside_p95_s: float
    slower: float
    job_alone: float
    job_beside: float
    job_keeps: float


def measure(slide: Path, *, threads: int, rounds: int, round_s: float) -> Figures:
    """Alternate the three kinds of round."""
    rng = np.random.default_rng(0)
    side_px = int(slide.stem)
    idle: list[float] = []
    beside: list[float] = []
    alone_rates: list[float] = []
    beside_rates: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(slide.parent, Path(folder) / "jobs", threads=threads)

        def post(times: list[float]) -> None:
            """Regions for the length of a round."""
            ends_at = time.perf_counter() + round_s
            while time.perf_counter() < ends_at:
                x, y = rng.integers(0, side_px - REGION_PX, 2).tolist()
                box = wire.RegionBox(x=x, y=y, width=REGION_PX, height=REGION_PX)
                request = wire.RegionRequest(pipeline="nash", slide=slide.name, mpp=MPP, region=box)
                started = time.perf_counter()
                bench.analyser.analyse(request, None, Control())
                times.append(time.perf_counter() - started)

        def job_rate(work: Callable[[], None]) -> float:
            """The CPU seconds that jobs get in a second of `work`."""
            before, started = _job_cpu_s(), time.perf_counter()
            work()
            return (_job_cpu_s() - before) / (time.perf_counter() - started)

        post([])  # warm
        for _ in range(rounds):
            post(idle)
            jobs = [bench.submit(slide.name) for _ in range(JOBS)]
            started_at = _job_cpu_s()
            while _job_cpu_s() < started_at + 0.1:
                time.sleep(0.02)
            alone_rates.append(job_rate(lambda: time.sleep(round_s)))
            beside_rates.append(job_rate(lambda: post(beside)))
            if bench.desk.show(jobs[-1], ANYONE).ended:
                raise SystemExit("The jobs ended before the rounds did: take a larger slide.")
            for job in jobs:
                if not bench.desk.show(job, ANYONE).ended:
                    bench.desk.cancel(job, ANYONE)
            _wait_until_idle()
        bench.close()
    p95 = [float(np.percentile(times, 95)) for times in (idle, beside)]
    rates = [float(np.mean(rates)) for rates in (alone_rates, beside_rates)]
    return Figures(
        regions=len(idle) + len(beside),
        idle_p95_s=round(p95[0], 3),
        beside_p95_s=round(p95[1], 3),
        slower=round(p95[1] / p95[0], 2),
        job_alone=round(rates[0], 3),
        job_beside=round(rates[1], 3),
        job_keeps=round(rates[1] / rates[0], 3),
    )


def _job_cpu_s() -> float:
    """Of the threads for tiles of jobs, by the kernel: a run of a network can take longer than a round."""
    return work_cpu_s(TILES)


def _wait_until_idle() -> None:
    """Until the tiles of cancelled jobs have ended."""
    before = -1.0
    while (now := _job_cpu_s()) != before:
        before = now
        time.sleep(3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, help="a slide named by its side in pixels, such as 8192.tif")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-s", type=float, default=15.0)
    options = parser.parse_args()
    figures = measure(options.slide, threads=options.threads, rounds=options.rounds, round_s=options.round_s)
    print(json.dumps(asdict(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
