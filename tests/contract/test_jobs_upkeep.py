"""What is deleted with time, what a dead process has left, and the numbers of jobs."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from served_jobs import LIMIT_S, StartJobs, ended, folders, problem, show, submit, succeeded
from served_process import Server

SMALL = {"x": 0, "y": 0, "width": 400, "height": 400}
SOON_DAYS = 2 / 86_400


def test_jobs_are_deleted_when_they_were_kept_long_enough(start_job_server: StartJobs, tmp_path: Path) -> None:
    """Row, files and queue, at the age set; a job that runs is left alone, and later ones are deleted while the
    server runs."""
    jobs = tmp_path / "jobs"
    server = start_job_server(jobs)
    old = succeeded(server, str(submit(server, region=SMALL)["id"]))
    assert server.stop() == 0
    server = start_job_server(jobs, jobs_keep_days=SOON_DAYS)
    server.wait(lambda: not folders(jobs), seconds=LIMIT_S)
    assert problem(httpx.get(f"{server.url}/v1/jobs/{old}")) == (404, "unknown-job")
    new = str(submit(server, region=SMALL)["id"])
    server.wait(lambda: httpx.get(f"{server.url}/v1/jobs/{new}").status_code == 404, seconds=LIMIT_S)
    server.wait(lambda: not folders(jobs))
    with sqlite3.connect(jobs / "jobs.sqlite") as database:
        left = database.execute("SELECT count(*) FROM workflow_status").fetchone()[0]
    database.close()
    assert left == 0
    assert server.stop() == 0


def test_jobs_are_kept_without_a_limit(start_job_server: StartJobs, tmp_path: Path) -> None:
    """The default; nor is what somebody else put in the folder removed."""
    jobs = tmp_path / "jobs"
    server = start_job_server(jobs)
    job = succeeded(server, str(submit(server, region=SMALL)["id"]))
    assert server.stop() == 0
    (jobs / "notes").mkdir()
    orphan = str(uuid.uuid4())
    (jobs / orphan / "parts").mkdir(parents=True)
    (jobs / orphan / "parts" / "00000.parquet").write_bytes(b"x")
    server = start_job_server(jobs)
    assert folders(jobs) == {job, "notes"}
    assert show(server, job)["status"] == "succeeded"
    assert "orphaned folders removed" in server.log.read_text()
    assert server.stop() == 0


def test_what_a_killed_upload_has_left_is_swept(start_job_server: StartJobs, tmp_path: Path) -> None:
    """kill -9 in the middle of an upload: its folder is gone after the next start."""
    jobs = tmp_path / "jobs"
    server = start_job_server(jobs)

    def body() -> object:
        yield b'--e\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + bytes(2**21)
        server.wait(lambda: bool(folders(jobs)))
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        yield bytes(2**20)

    with pytest.raises(httpx.TransportError):
        httpx.post(
            f"{server.url}/v1/jobs",
            content=body(),  # type: ignore[arg-type]  # httpx takes any iterator
            headers={"Content-Type": "multipart/form-data; boundary=e"},
        )
    assert folders(jobs)
    server = start_job_server(jobs)
    assert not folders(jobs)
    assert server.stop() == 0


def test_the_numbers_of_jobs(start_job_server: StartJobs, tmp_path: Path) -> None:
    """Fields done and waiting, cells, age, disk and take-overs, from the first scrape on and after a kill."""
    jobs = tmp_path / "jobs"
    server = start_job_server(jobs, max_fields_in_flight=1)
    assert _numbers(server, "fields_done", "fields_waiting", "cells", "oldest_seconds") == (0, 0, 0, 0)
    known = [str(submit(server)["id"])]
    _wait_for_a_field(server, known[0])
    _, waiting, cells, age = _numbers(server, "fields_done", "fields_waiting", "cells", "oldest_seconds")
    if show(server, known[0])["status"] == "running":
        assert age > 0
        assert waiting < show(server, known[0])["progress"]["fields_total"]
    assert cells > 0
    _stop_at_work(server, jobs, known)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server = start_job_server(jobs)
    reported = [ended(server, each)["progress"] for each in known]
    done, waiting, cells, age = _numbers(server, "fields_done", "fields_waiting", "cells", "oldest_seconds")
    assert (done, waiting, age) == (sum(each["fields_total"] for each in reported), 0, 0)
    assert cells == sum(each["cells"] for each in reported)
    assert _numbers(server, "take_overs")[0] == 1
    assert _numbers(server, "disk_free_bytes")[0] > 0
    used = sum(path.stat().st_size for path in jobs.rglob("*") if path.is_file())
    assert server.stop() == 0
    server = start_job_server(jobs)
    server.wait(lambda: 0.5 * used < _numbers(server, "disk_used_bytes")[0] < 2 * used)
    assert server.stop() == 0


def _stop_at_work(server: Server, jobs: Path, known: list[str]) -> None:
    """Stop the process while the database says that work is in its hands; jobs are submitted until it does."""
    ends_at = time.monotonic() + LIMIT_S
    while time.monotonic() < ends_at:
        known.append(str(submit(server)["id"]))
        for _ in range(100):
            os.kill(server.process.pid, signal.SIGSTOP)
            with (
                suppress(sqlite3.OperationalError),  # it was stopped while it wrote
                closing(sqlite3.connect(jobs / "jobs.sqlite", timeout=0.1)) as database,
            ):
                if database.execute("SELECT 1 FROM workflow_status WHERE status = 'PENDING'").fetchone():
                    return
            os.kill(server.process.pid, signal.SIGCONT)
            time.sleep(0.01)
    raise AssertionError("no work was ever in its hands")


def _wait_for_a_field(server: Server, job: str) -> None:
    server.wait(lambda: show(server, job)["progress"]["fields_done"] >= 1, seconds=LIMIT_S)


def _numbers(server: Server, *names: str) -> tuple[float, ...]:
    return tuple(server.metric(f"slidecascade_jobs_{name}") for name in names)
