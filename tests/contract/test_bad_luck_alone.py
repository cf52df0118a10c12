"""What bad luck does to the jobs of one server with SQLite: its result is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import gated
from fleet import FIELDS, features, undisturbed
from fleet import SLIDE as LONG
from long_slide import MPP, write_long_slide
from served_jobs import GEOJSON, problem, show, succeeded
from served_process import Server, free_port, launch
from small_disk import fill, small_disk
from toy_pipeline import ToyPipeline

pytestmark = pytest.mark.slow

KILLS = 20
JOB = {"pipeline": "toy", "slide": LONG, "mpp": MPP, "outputs": ["geojson"]}
LIMIT_S = 180.0


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_long_slide(folder / LONG)
    return folder


@pytest.fixture(scope="module")
def expected(toy: ToyPipeline, slides: Path) -> list[bytes]:
    """The features of an undisturbed run."""
    found = undisturbed(toy, slides)
    assert len(found) > 500
    return found


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file exists no server writes a field; see `gated`."""
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("GATE", str(gate))
    return gate / "hold"


Start = Callable[[Path], Server]


@pytest.fixture
def start(toy: ToyPipeline, slides: Path, tmp_path: Path, hold: Path) -> Iterator[Start]:
    """Starts a server with small fields that takes jobs in the folder given."""
    started: list[Server] = []

    def start(jobs: Path) -> Server:
        home = tmp_path / f"server-{len(started)}"
        home.mkdir()
        port = free_port()
        words = ["serve", "--slides", str(slides), "--models", str(toy.models_dir), "--jobs", str(jobs)]
        command = [sys.executable, str(gated.__file__), *words, "--port", str(port)]
        settings = {"pipelines_dir": toy.pipelines_dir, "threads": 1, "max_fields_in_flight": 1}
        started.append(launch(command, port=port, home=home, jobs_min_free_bytes=0, **settings))
        return started[-1]

    yield start
    hold.unlink(missing_ok=True)
    for server in started:
        server.stop()


def submit(server: Server, key: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/jobs", json=JOB, headers={"Idempotency-Key": key}, timeout=60)


def found(server: Server, job: str) -> list[bytes]:
    """The features of the job, which succeeds with every field once."""
    succeeded(server, job)
    progress = show(server, job)["progress"]
    assert (progress["fields_done"], progress["fields_total"]) == (FIELDS, FIELDS)
    answer = httpx.get(f"{server.url}/v1/jobs/{job}/result", headers=GEOJSON, timeout=60).raise_for_status()
    return features(answer.content)


def test_twenty_kills_of_the_service_within_one_slide(
    start: Start, hold: Path, tmp_path: Path, expected: list[bytes]
) -> None:
    """Kill -9 at random moments, before fields, within them and between them: the cells and ids of one run."""
    rng = random.Random(11)  # noqa: S311  # moments, not secrets
    jobs, killed_in_work = tmp_path / "jobs", 0
    server = start(jobs)
    job = submit(server, "once").json()["id"]
    for kill in range(KILLS):
        due = min(FIELDS - 2, kill + rng.randint(0, 2))
        if done(jobs, job) < due:
            hold.unlink(missing_ok=True)
            server.wait(lambda due=due: done(jobs, job) >= due, seconds=LIMIT_S)  # type: ignore[misc]
        moment = time.monotonic() + rng.uniform(0, 0.1)
        while time.monotonic() < moment:
            os.sched_yield()
        killed_in_work += done(jobs, job) < FIELDS
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        hold.touch()
        server = start(jobs)
        assert submit(server, "once").json()["id"] == job
    hold.unlink()
    assert found(server, job) == expected
    assert killed_in_work >= KILLS // 2
    assert len(httpx.get(f"{server.url}/v1/jobs").json()["jobs"]) == 1


def done(jobs: Path, job: str) -> int:
    """Fields that are on the disk."""
    return len(list((jobs / job / "parts").glob("0*.json")))


@pytest.fixture
def full_soon(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mib=16) as folder:
        yield folder


def test_a_full_disk_is_waited_for(full_soon: Path, start: Start, hold: Path, expected: list[bytes]) -> None:
    """The database is on it too: the job waits, new ones are rejected, nothing is half written, and it goes on."""
    jobs = full_soon / "jobs"
    hold.touch()
    server = start(jobs)
    job = submit(server, "first").json()["id"]
    server.wait(lambda: any(hold.parent.glob("at-*")), seconds=LIMIT_S)
    fill(full_soon / "filler")
    hold.unlink()
    server.wait(lambda: "storage-full" in server.log.read_text(encoding="utf-8"), seconds=LIMIT_S)
    assert problem(submit(server, "second")) == (507, "storage-full")
    assert show(server, job)["status"] == "running"
    assert not list(jobs.rglob("*.partial-*"))
    (full_soon / "filler").unlink()
    assert found(server, job) == expected
    assert submit(server, "second").status_code == 202
