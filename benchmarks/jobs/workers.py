"""One ``slidecascade worker`` with two threads against two with one, on the same slide.

`python -m benchmarks.jobs.workers SLIDE URL URL` prints the figures as JSON; each URL is that of an empty Postgres
database.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.jobs.memory import peak_mib
from benchmarks.jobs.slides import MPP

from slidecascade import wire
from slidecascade.jobs.database import open_database
from slidecascade.jobs.records import Records

_LOOK_S = 0.05
_READY = "jobs are worked on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A job: wall seconds, CPU seconds of all workers, and the most memory that one of them had."""

    processes: int
    threads: int
    wall_s: float
    cpu_s: float
    peak_mib: float


class Workers:
    """Processes on the jobs of one database, from when all of them are ready."""

    def __init__(self, slide: Path, url: str, home: Path, *, processes: int, threads: int) -> None:
        self._stack = ExitStack()
        self._logs = [home / f"{number}.log" for number in range(processes)]
        environment = os.environ | {
            "SLIDECASCADE_THREADS": str(threads),
            "SLIDECASCADE_JOBS_DATABASE_URL": url,
            "SLIDECASCADE_JOBS_MIN_FREE_BYTES": "0",
        }
        words = ["worker", "--slides", str(slide.parent), "--jobs", str(home / "jobs")]
        self.processes = []
        for path in self._logs:
            log = self._stack.enter_context(path.open("wb"))
            command = [sys.executable, "-m", "slidecascade", *words]
            self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        while not all(_READY in path.read_text(encoding="utf-8") for path in self._logs):
            if any(process.poll() is not None for process in self.processes):
                raise SystemExit("\n".join(path.read_text(encoding="utf-8") for path in self._logs))
            time.sleep(_LOOK_S)

    def cpu_s(self) -> float:
        """CPU seconds of the processes that run."""
        ticks = 0
        for process in self.processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """The most memory that one of the processes has had."""
        return max(peak_mib(process.pid) for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()
        self._stack.close()


def run(slide: Path, url: str, *, processes: int, threads: int) -> Run:
    """One job, from its submission to its end."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(url, Path(folder))
        records = Records(engine)
        workers = Workers(slide, url, Path(folder), processes=processes, threads=threads)
        try:
            cpu, wall = workers.cpu_s(), time.perf_counter()
            request = wire.JobRequest(pipeline="nash", slide=slide.name, mpp=MPP)
            job = records.add(request, request_id="bench", key=None, most_active=9, retry_after_s=1)[0].id
            while not (record := records.get(job)).ended:
                time.sleep(_LOOK_S)
            if record.status != "succeeded":
                raise SystemExit(f"The job has {record.status}: {record.failure}")
            return Run(
                processes=processes,
                threads=threads,
                wall_s=round(time.perf_counter() - wall, 2),
                cpu_s=round(workers.cpu_s() - cpu, 2),
                peak_mib=round(workers.peak_mib()),
            )
        finally:
            workers.close()
            engine.dispose()


def main() -> int:
    slide, one, two = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    runs = run(slide, one, processes=1, threads=2), run(slide, two, processes=2, threads=1)
    print(json.dumps([asdict(each) for each in runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
