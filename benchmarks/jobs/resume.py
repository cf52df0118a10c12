"""Work that is done again after kill -9 in the middle of a slide, on SQLite.

`python -m benchmarks.jobs.resume SLIDE` prints the figures as JSON. A process works on the job and is killed when
half of the fields are done; another one ends the job.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.jobs.one import Bench

from slidecascade.access.caller import ANYONE
from slidecascade.jobs.fields import FIELD_TILES

_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`done_again` are fields that were done at the kill; at most one a thread was begun.

    `lost_fields` is the CPU time of both processes over that of an undisturbed one, in fields of it: what was done
    again, and the start of a process.
    """

    threads: int
    fields: int
    done_at_kill: int
    done_again: int
    begun_at_kill: int
    undisturbed_cpu_s: float
    cpu_s: float
    lost_fields: float


def work(slide: Path, jobs: Path, *, threads: int, field_tiles: int) -> None:
    """Submit the slide, or go on with the job that is there, and end it."""
    bench = Bench(slide.parent, jobs, threads=threads, field_tiles=field_tiles)
    known = bench.desk.list(ANYONE, limit=1, before=None, status=None, label=None)
    bench.ended(known[0].id if known else bench.submit(slide.name))
    bench.close()


def measure(slide: Path, *, threads: int, field_tiles: int) -> Figures:
    """An undisturbed run, and one that is killed."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--threads", str(threads), "--field-tiles", str(field_tiles), "--jobs"]
        command = [sys.executable, "-m", "benchmarks.jobs.resume", str(slide), *words]
        alone = Path(folder) / "alone"
        undisturbed_s = _children_cpu_s(lambda: subprocess.run([*command, str(alone)], check=True))
        fields = len(_reports(alone))
        jobs = Path(folder) / "jobs"
        found: dict[str, int] = {}

        def kill() -> None:
            process = subprocess.Popen([*command, str(jobs)])
            while len(_reports(jobs)) < fields // 2:
                if process.poll() is not None:
                    raise SystemExit("The process has ended before half of the fields were done.")
                time.sleep(_LOOK_S)
            process.send_signal(signal.SIGKILL)
            process.wait()
            found.update(_reports(jobs))
            subprocess.run([*command, str(jobs)], check=True)

        seconds = _children_cpu_s(kill)
        after = _reports(jobs)
    return Figures(
        threads=threads,
        fields=fields,
        done_at_kill=len(found),
        done_again=sum(after[name] != written for name, written in found.items()),
        begun_at_kill=min(threads, fields - len(found)),
        undisturbed_cpu_s=round(undisturbed_s, 2),
        cpu_s=round(seconds, 2),
        lost_fields=round((seconds - undisturbed_s) / undisturbed_s * fields, 2),
    )


def _reports(jobs: Path) -> dict[str, int]:
    """The reports of the fields that are done, by name, and when each was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in jobs.glob("*/parts/0*.json")}


def _children_cpu_s(run: Callable[[], object]) -> float:
    """CPU seconds of the processes that `run` starts and waits for."""
    before = os.times()
    run()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--field-tiles", type=int, default=FIELD_TILES, help="tiles of a field each way")
    parser.add_argument("--jobs", type=Path, help="work on the job in this folder, and measure nothing")
    options = parser.parse_args()
    if options.jobs is not None:
        work(options.slide, options.jobs, threads=options.threads, field_tiles=options.field_tiles)
        return 0
    print(json.dumps(asdict(measure(options.slide, threads=options.threads, field_tiles=options.field_tiles))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
