"""What the queue costs for a field: queueing, taking, checkpoints and rows, of fields without any work.

`python -m benchmarks.jobs.checkpoints [URL]` prints the figures as JSON; without the URL of a Postgres database
they are those of SQLite.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from slidecascade import wire
from slidecascade.cancellation import Control
from slidecascade.jobs.database import open_database
from slidecascade.jobs.durable import Durable
from slidecascade.jobs.records import Records
from slidecascade.jobs.workers import Workers

FIELDS: Final = 300
IN_FLIGHT: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one field, in milliseconds: wall time is that of a field's way through the queue, two at a time."""

    database: str
    fields: int
    cpu_ms: float
    wall_ms: float


class Nothing:
    """Work that takes no time; it does what a field's does with the database."""

    def __init__(self, records: Records, durable: Durable) -> None:
        self._records, self._durable = records, durable
        self.done = threading.Event()

    def plan(self, job: str, attempt: int) -> None:
        self._records.start(job, attempt, fields_total=FIELDS, done={})
        self._durable.submit_fields(job, attempt, range(FIELDS))

    def field(self, job: str, attempt: int, index: int) -> None:
        with self._durable.at_work(f"{job}.{attempt}.{index}", Control()):
            if self._records.finish_field(job, attempt, index, 1):
                self._durable.submit_collect(job, attempt)

    def collect(self, job: str, attempt: int) -> None:
        self._records.end(job, attempt, "succeeded")
        self.done.set()

    def give_up(self, job: str, attempt: int) -> None:
        raise SystemExit(f"The job {job}.{attempt} was given up.")


def measure(url: str | None, folder: Path) -> Figures:
    """Pass fields without work through the queue."""
    engines = open_database(url, folder), open_database(url, folder)
    records = Records(engines[0])
    durable = Durable(
        engines[1], records, Workers(engines[0]), fields=IN_FLIGHT, lease_s=3.0, is_alone=url is None
    )
    work = Nothing(records, durable)
    durable.start(work)
    cpu, wall = time.process_time(), time.perf_counter()
    request = wire.JobRequest(pipeline="none", slide="none")
    job = records.add(request, request_id="bench", key=None, most_active=1, retry_after_s=1)[0]
    durable.submit(job.id, job.attempt)
    work.done.wait()
    figures = Figures(
        database="SQLite" if url is None else "Postgres",
        fields=FIELDS,
        cpu_ms=round((time.process_time() - cpu) / FIELDS * 1e3, 2),
        wall_ms=round((time.perf_counter() - wall) / FIELDS * 1e3, 2),
    )
    durable.stop()
    for engine in engines:
        engine.dispose()
    return figures


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(measure(sys.argv[1] if len(sys.argv) > 1 else None, Path(folder)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
