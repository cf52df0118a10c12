"""Several processes work on the jobs of one Postgres database, and take over from each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from long_slide import MPP, write_long_slide
from postgres import postgres
from served_process import Server, StartServer, environment
from slidecascade.cli import main
from slidecascade_client import Client
from toy_pipeline import ToyPipeline

LIMIT_S = 180.0
SLIDE = "long.tif"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_long_slide(folder / SLIDE)
    return folder


class Worker:
    """A ``slidecascade worker``, and its log."""

    def __init__(self, toy: ToyPipeline, slides: Path, jobs: Path, database: str, home: Path) -> None:
        home.mkdir()
        self.log = home / "log.jsonl"
        words = ["worker", "--slides", str(slides), "--models", str(toy.models_dir), "--jobs", str(jobs)]
        settings = {"pipelines_dir": toy.pipelines_dir, "threads": 1, "jobs_database_url": database}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "slidecascade", *words],
                env=environment(home, **settings, max_fields_in_flight=1),
                stderr=log,
                stdout=log,
            )

    def wait_for(self, text: str) -> None:
        ends_at = time.monotonic() + LIMIT_S
        while text not in self.log.read_text():
            assert time.monotonic() < ends_at, self.log.read_text()[-3000:]
            assert self.process.poll() is None, self.log.read_text()[-3000:]


@pytest.fixture
def start_worker(
    toy: ToyPipeline, slides: Path, database: str, tmp_path: Path
) -> Iterator[Callable[[Path], Worker]]:
    workers: list[Worker] = []

    def start(jobs: Path) -> Worker:
        workers.append(Worker(toy, slides, jobs, database, tmp_path / f"worker-{len(workers)}"))
        workers[-1].wait_for("jobs are worked on")
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()


def features(text: bytes) -> list[bytes]:
    return sorted(line.rstrip(b",") for line in text.splitlines()[1:-1])


def test_work_of_a_killed_process_is_taken_over(
    start_server: StartServer,
    start_worker: Callable[[Path], Worker],
    toy: ToyPipeline,
    slides: Path,
    database: str,
    tmp_path: Path,
) -> None:
    """A worker is killed within a field, then the server: the other worker ends the jobs, with the same cells."""
    jobs = tmp_path / "jobs"
    settings = {"pipelines_dir": toy.pipelines_dir, "threads": 1, "jobs_database_url": database}

    def serve() -> Server:
        return start_server(
            slides=slides, models=toy.models_dir, jobs_dir=jobs, max_fields_in_flight=1, **settings
        )

    server = serve()
    first, second = start_worker(jobs), start_worker(jobs)
    with Client(server.url) as client:
        made = [client.submit(SLIDE, pipeline="toy", mpp=MPP).id for _ in range(3)]
        first.wait_for("field done")
        os.kill(first.process.pid, signal.SIGKILL)
        second.wait_for("field done")
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    again = serve()
    with Client(again.url) as client:
        region = httpx.post(
            f"{again.url}/v1/regions", json={"pipeline": "toy", "slide": SLIDE, "mpp": MPP}, timeout=LIMIT_S
        )
        for job_id in made:
            job = client.job(job_id)
            assert job.wait(poll_s=0.2).status == "succeeded"
            answer = httpx.get(f"{again.url}/v1/jobs/{job_id}/result", timeout=60)
            assert features(answer.content) == features(region.content)
        assert len(list(client.jobs())) == 3
    assert "work taken over" in second.log.read_text() + again.log.read_text()
    second.process.terminate()
    assert second.process.wait(60) == 0
    assert again.stop() == 0


def test_a_worker_needs_a_database_and_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite is for one process."""
    assert main(["worker", "--jobs", "somewhere"]) == 2
    assert "SLIDECASCADE_JOBS_DATABASE_URL" in capsys.readouterr().err
    monkeypatch.setenv("SLIDECASCADE_JOBS_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1/none")
    assert main(["worker"]) == 2
    assert "SLIDECASCADE_JOBS_DIR" in capsys.readouterr().err
