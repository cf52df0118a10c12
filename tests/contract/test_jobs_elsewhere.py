"""What one process accepts, another one finishes: uploads and notifications on Postgres."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest
import yaml

import webhook_receiver
from long_slide import MPP
from postgres import postgres
from served_jobs import LIMIT_S, StartJobs
from served_process import environment, free_port
from slidecascade.jobs.database import open_database
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records
from toy_pipeline import ToyPipeline, blobs

SECRET = "whsec_" + "c2xpZGVjYXNjYWRlLXRlc3Qtc2VjcmV0LTE="  # made up here


@pytest.fixture
def database() -> Iterator[str]:
    with postgres() as url:
        yield url


def wait_until(condition: Any) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_a_worker_finishes_and_notifies_what_a_dead_server_accepted(
    start_job_server: StartJobs, job_toy: ToyPipeline, database: str, tmp_path: Path
) -> None:
    """The server is killed when it has answered 202 to an upload: a worker analyses the image from the shared
    folder and delivers the notification, once."""
    port, came = free_port(), tmp_path / "came.jsonl"
    target = {"url": f"http://127.0.0.1:{port}/", "secrets": [SECRET], "first_retry_s": 0.2}
    webhooks = tmp_path / "webhooks.yaml"
    webhooks.write_text(yaml.safe_dump({"targets": {"lis": target}}))
    settings = {"jobs_database_url": database, "webhooks_file": webhooks}
    server = start_job_server(tmp_path / "jobs", **settings)
    png = bytes(cv2.imencode(".png", blobs(5, 900, 400, 80)[:, :, ::-1])[1])
    fields = {"pipeline": "toy", "mpp": MPP, "notify": "lis"}
    files: dict[str, Any] = {"request": (None, json.dumps(fields)), "image": ("x.png", png)}
    answer = httpx.post(f"{server.url}/v1/jobs", files=files, timeout=60)
    assert answer.status_code == 202, answer.text
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    home = tmp_path / "worker"
    home.mkdir()
    words = ["worker", "--models", str(job_toy.models_dir), "--jobs", str(tmp_path / "jobs")]
    variables = environment(
        home, pipelines_dir=job_toy.pipelines_dir, threads=1, jobs_min_free_bytes=0, **settings
    )
    with (home / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "slidecascade", *words], env=variables, stdout=log, stderr=log
        )
    receiver = subprocess.Popen([sys.executable, webhook_receiver.__file__, str(port), str(came), SECRET, "500"])
    engine = open_database(database, tmp_path)
    try:
        records, outbox = Records(engine), Outbox(engine)
        wait_until(lambda: records.get(answer.json()["id"]).ended)
        assert records.get(answer.json()["id"]).status == "succeeded", (home / "log").read_text()
        assert records.get(answer.json()["id"]).cells > 20
        wait_until(lambda: outbox.counts()["delivered"] == 1)
        lines = [json.loads(line) for line in came.read_text().splitlines()]
        assert [line["status"] for line in lines] == ["500", "204"]
        assert all(line["verified"] for line in lines)
        assert len({line["id"] for line in lines}) == 1
    finally:
        for process in (worker, receiver):
            process.terminate()
            process.wait(60)
        engine.dispose()
