"""Workers of one job queue, real processes with small fields (`gated`), and what a test does to them."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gated
from long_slide import MPP, write_long_slide
from served_process import environment
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.jobs.database import open_database
from slidecascade.jobs.records import JobRecord, Records
from slidecascade.outputs.cells import geojson
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from toy_pipeline import ToyPipeline

LIMIT_S = 180.0
SLIDE = "long.tif"
FIELDS = 25
REQUEST = wire.JobRequest(pipeline="toy", slide=SLIDE, mpp=MPP, outputs=("geojson",))


def wait_for(condition: Callable[[], bool], what: str, *, log: Path | None = None) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends_at, f"{what}: {log.read_text()[-3000:] if log else ''}"
        time.sleep(0.01)


def features(text: bytes) -> list[bytes]:
    """The features of a GeoJSON document, sorted: their order is no part of an answer."""
    return sorted(line.rstrip(b",") for line in text.splitlines()[1:-1])


def undisturbed(toy: ToyPipeline, slides: Path) -> list[bytes]:
    """The features of the slide as one region, found in this process."""
    settings = Settings(
        models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir, slide_roots=(slides,), threads=1
    )
    analyser = Analyser(settings, observer=Silent())
    try:
        report = analyser.analyse(REQUEST.region_request(), None, Control())
        return features(b"".join(geojson.encode(report.cells)))
    finally:
        analyser.close()


@dataclass
class Worker:
    """A process, its log, and its folder of the files that `gated` reads and writes."""

    process: subprocess.Popen[bytes]
    log: Path
    gate: Path

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def begun(self) -> set[int]:
        """Fields that processes with this gate have begun."""
        return {int(path.name.rpartition("-")[2]) for path in self.gate.glob("at-*")}

    def hold(self) -> None:
        (self.gate / "hold").touch()

    def release(self) -> None:
        (self.gate / "hold").unlink()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in self.text(), text, log=self.log)


@dataclass
class Fleet:
    """Workers on the jobs of one database and one folder.

    Args:
        url: of the database, for the workers; `local_url` for this process, if another.
    """

    toy: ToyPipeline
    home: Path
    url: str
    local_url: str = ""
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = self.home / "jobs"
        self.slides = self.home / "slides"
        self.jobs.mkdir(parents=True)
        self.slides.mkdir()
        write_long_slide(self.slides / SLIDE)
        self._engine = open_database(self.local_url or self.url, self.home)
        self.records = Records(self._engine)

    def submit(self) -> str:
        """A job as a server leaves it that dies right after it was accepted; its id."""
        return self.records.add(REQUEST, request_id="test", key=None, most_active=10, retry_after_s=1)[0].id

    def start(
        self, *, held: bool = False, inside: Sequence[str] = (), words: Sequence[str] = (), **more: object
    ) -> Worker:
        """Start a worker; `held`: none of its fields is written until it is released."""
        worker = self.launch(held=held, inside=inside, words=words, **more)
        worker.wait_for("jobs are worked on")
        return worker

    def launch(
        self, *, held: bool = False, inside: Sequence[str] = (), words: Sequence[str] = (), **more: object
    ) -> Worker:
        """As `start`, without waiting."""
        home = self.home / f"worker-{len(self.workers)}"
        gate = home / "gate"
        gate.mkdir(parents=True)
        if held:
            (gate / "hold").touch()
        settings = {
            "pipelines_dir": self.toy.pipelines_dir,
            "threads": 1,
            "max_fields_in_flight": 1,
            "jobs_min_free_bytes": 0,
            "jobs_database_url": self.url,
        } | more
        command = [*inside, sys.executable, gated.__file__ or "", "worker", "--slides", str(self.slides), *words]
        command += ["--models", str(self.toy.models_dir), "--jobs", str(self.jobs)]
        with (home / "log.jsonl").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=environment(home, **settings) | {"GATE": str(gate)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.workers.append(Worker(process, home / "log.jsonl", gate))
        return self.workers[-1]

    def parts(self, job: str) -> set[int]:
        """Fields of a job whose reports are written."""
        return {int(path.stem) for path in (self.jobs / job / "parts").glob("0*.json")}

    def wait_for_parts(self, job: str, count: int) -> None:
        wait_for(lambda: len(self.parts(job)) >= count, f"{count} parts", log=self.workers[-1].log)

    def ended(self, job: str) -> JobRecord:
        """The job, once it has ended."""
        wait_for(lambda: self.records.get(job).ended, "the end of the job", log=self.workers[-1].log)
        return self.records.get(job)

    def features(self, job: str) -> list[bytes]:
        """What a job has found; no part or file of it is half written."""
        assert not list((self.jobs / job).rglob("*.partial-*"))
        return features(gzip.decompress((self.jobs / job / "results" / "cells.geojson.gz").read_bytes()))

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.send(signal.SIGCONT)
                worker.process.kill()
            worker.process.wait()
        self._engine.dispose()
