"""Notifications of ended jobs to a receiver in its own process: signed, repeated until they arrive, never lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import webhook_receiver
from conftest import REPOSITORY
from served_jobs import JOB, LIMIT_S, StartJobs, ended, problem, submit
from served_process import Server, environment, free_port
from slidecascade.cli import main
from slidecascade.errors import SettingsError
from slidecascade.jobs.webhooks import read_webhooks
from slidecascade_client import AsyncClient, Client

SECRET = "whsec_" + "c2xpZGVjYXNjYWRlLXRlc3Qtc2VjcmV0LTE="  # made up here
OLD_SECRET = "whsec_" + "c2xpZGVjYXNjYWRlLXRlc3Qtc2VjcmV0LTI="


@dataclass
class Receiver:
    """The process, and what has arrived."""

    port: int
    file: Path
    processes: list[subprocess.Popen[bytes]]

    def start(self, *statuses: str, secret: str = SECRET) -> None:
        words = [str(self.port), str(self.file), secret, ",".join(statuses)]
        self.processes.append(subprocess.Popen([sys.executable, webhook_receiver.__file__, *words]))
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
        raise AssertionError("the receiver does not listen")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def came(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(free_port(), tmp_path / "came.jsonl", [])
    yield receiver
    receiver.stop()


@pytest.fixture
def webhooks(tmp_path: Path, receiver: Receiver) -> Path:
    """The operator's file: one target, impatient enough for a test."""
    target = {
        "url": f"http://127.0.0.1:{receiver.port}/hooks/slides",
        "secrets": [SECRET, OLD_SECRET],
        "timeout_s": 2,
        "first_retry_s": 0.2,
        "attempts": 4,
    }
    path = tmp_path / "webhooks.yaml"
    path.write_text(yaml.safe_dump({"public_url": "https://slides.test", "targets": {"lis": target}}))
    return path


@pytest.fixture
def server(start_job_server: StartJobs, tmp_path: Path, webhooks: Path) -> Iterator[Server]:
    server = start_job_server(tmp_path / "jobs", webhooks_file=webhooks)
    yield server
    server.stop()


def listed(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server.url}/v1/notifications", timeout=30).json()["notifications"]
    return found


def small(server: Server) -> str:
    """A short job that notifies."""
    region = {"x": 0, "y": 0, "width": 400, "height": 400}
    return str(submit(server, notify="lis", region=region, label="Meier, Erika")["id"])


def test_the_end_of_a_job_is_notified(server: Server, receiver: Receiver) -> None:
    """Signed so that the library verifies it; ids and links only; delivered once; cancelled jobs too."""
    receiver.start()
    job = small(server)
    assert ended(server, job)["status"] == "succeeded"
    server.wait(lambda: [item["state"] for item in listed(server)] == ["delivered"])
    (came,) = receiver.came()
    assert came["verified"]
    assert came["path"] == "/hooks/slides"
    body = json.loads(came["body"])
    link = f"https://slides.test/v1/jobs/{job}"
    assert body["type"] == "job.succeeded"
    assert body["timestamp"].endswith("Z")
    assert body["data"] == {
        "id": job,
        "status": "succeeded",
        "links": {"self": link, "result": f"{link}/result", "files": f"{link}/files"},
    }
    assert "Ward" not in came["body"]
    assert "Meier" not in came["body"]
    stopped = str(submit(server, notify="lis")["id"])
    httpx.post(f"{server.url}/v1/jobs/{stopped}/cancel").raise_for_status()
    server.wait(lambda: len(receiver.came()) == 2)
    assert json.loads(receiver.came()[1]["body"])["type"] == "job.cancelled"
    assert server.metric('slidecascade_jobs_notifications{state="delivered"}') == 2


def test_either_secret_verifies(server: Server, receiver: Receiver) -> None:
    """While a secret is replaced, a receiver with the old one accepts it too."""
    receiver.start(secret=OLD_SECRET)
    ended(server, small(server))
    server.wait(lambda: len(receiver.came()) == 1)
    assert receiver.came()[0]["verified"]


def test_a_receiver_that_fails_is_asked_again(server: Server, receiver: Receiver) -> None:
    """A server error, a broken connection, then success: the same id and body, a valid signature each time."""
    receiver.start("500", "0")
    ended(server, small(server))
    server.wait(lambda: [item["state"] for item in listed(server)] == ["delivered"])
    came = receiver.came()
    assert [item["status"] for item in came] == ["500", "0", "204"]
    assert len({(item["id"], item["body"]) for item in came}) == 1
    assert all(item["verified"] for item in came)
    assert listed(server)[0]["attempts"] == 3


def test_a_receiver_that_is_away_gets_it_later(server: Server, receiver: Receiver) -> None:
    """Nobody listens when the job ends; the notification waits, and arrives when somebody does."""
    ended(server, small(server))
    server.wait(lambda: listed(server)[0]["attempts"] >= 1)
    assert listed(server)[0]["error"] == "ConnectError"
    receiver.start()
    server.wait(lambda: listed(server)[0]["state"] == "delivered")
    assert len(receiver.came()) == 1


def test_dead_letters_are_listed_and_sent_again(
    server: Server, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the last attempt, or at once on 410; the list, metric, client and command line name them."""
    receiver.start("500", "500", "500", "500", "410")
    ended(server, small(server))
    server.wait(lambda: listed(server)[0]["state"] == "dead")
    assert (listed(server)[0]["attempts"], listed(server)[0]["error"]) == (4, "status 500")
    ended(server, small(server))
    server.wait(lambda: [item["state"] for item in listed(server)] == ["dead", "dead"])
    assert (listed(server)[0]["attempts"], listed(server)[0]["error"]) == (1, "status 410")
    assert server.metric('slidecascade_jobs_notifications{state="dead"}') == 2
    with Client(server.url) as client:
        dead = client.notifications(state="dead")
        assert len(dead) == 2
        assert client.resend(dead[0].id).state == "waiting"
    assert main(["jobs", "--url", server.url, "notifications", "--resend", dead[1].id]) == 0
    server.wait(lambda: {item["state"] for item in listed(server)} == {"delivered"})
    assert main(["jobs", "--url", server.url, "notifications"]) == 0
    assert capsys.readouterr().out.count("delivered") == 2
    assert problem(httpx.post(f"{server.url}/v1/notifications/none/resend")) == (404, "unknown-notification")


async def test_the_asynchronous_client_lists_notifications(server: Server, receiver: Receiver) -> None:
    """And sends them again."""
    receiver.start()
    ended(server, small(server))
    server.wait(lambda: listed(server)[0]["state"] == "delivered")
    async with AsyncClient(server.url) as client:
        (item,) = await client.notifications()
        assert (await client.resend(item.id)).state == "waiting"
    server.wait(lambda: len(receiver.came()) == 2)
    assert {came["id"] for came in receiver.came()} == {item.id}


def test_kill_9_between_the_end_and_the_delivery_loses_nothing(
    server: Server, receiver: Receiver, start_job_server: StartJobs, tmp_path: Path, webhooks: Path
) -> None:
    """Killed while the receiver holds the request open: the next process delivers it, under the same id."""
    receiver.start("-")
    ended(server, small(server))
    server.wait(lambda: len(receiver.came()) == 1)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    again = start_job_server(tmp_path / "jobs", webhooks_file=webhooks)
    again.wait(lambda: listed(again)[0]["state"] == "delivered", seconds=LIMIT_S)
    assert len(receiver.came()) == 2
    assert len({came["id"] for came in receiver.came()}) == 1
    assert all(came["verified"] for came in receiver.came())
    assert again.stop() == 0


def test_kill_9_before_any_attempt_loses_nothing(
    server: Server, receiver: Receiver, start_job_server: StartJobs, tmp_path: Path, webhooks: Path
) -> None:
    """Killed while nobody listens: delivered by the next process."""
    ended(server, small(server))
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    receiver.start()
    again = start_job_server(tmp_path / "jobs", webhooks_file=webhooks)
    again.wait(lambda: listed(again)[0]["state"] == "delivered", seconds=LIMIT_S)
    assert [came["verified"] for came in receiver.came()] == [True]
    assert again.stop() == 0


def test_a_target_that_is_not_configured_is_rejected(server: Server, job_server: Server) -> None:
    """By name, with those there are; a request cannot give an address."""
    for name in ("pacs", "http://127.0.0.1:1/"):
        answer = httpx.post(f"{server.url}/v1/jobs", json=JOB | {"notify": name}, timeout=30)
        assert problem(answer) == (422, "invalid-request")
        assert "lis" in answer.json()["detail"]
    assert problem(httpx.post(f"{job_server.url}/v1/jobs", json=JOB | {"notify": "lis"})) == (
        422,
        "invalid-request",
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("targets: {lis: {url: 'https://x.test', secrets: [whsec_c2hvcnQ=]}}", "targets.lis.secrets"),
        ("targets: {lis: {url: 'ftp://x.test', secrets: [" + SECRET + "]}}", "targets.lis.url"),
        ("targets: {lis: {url: 'https://x.test', secret: " + SECRET + "}}", "targets.lis.secrets"),
        ("targets: [", "not YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_reported(tmp_path: Path, text: str | None, named: str) -> None:
    """The place of the fault, and no secret."""
    path = tmp_path / "webhooks.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=named) as raised:
        read_webhooks(path)
    assert "whsec_c2" not in str(raised.value)


def test_the_documented_file_is_valid(tmp_path: Path) -> None:
    """The one of docs/jobs.md, with a secret."""
    page = (REPOSITORY / "docs" / "jobs.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    path = tmp_path / "webhooks.yaml"
    path.write_text(block.group(1).replace("whsec_...", SECRET))
    assert read_webhooks(path).targets["lis"].attempts == 12


def test_a_server_with_a_wrong_file_does_not_start(tmp_path: Path) -> None:
    """One sentence, before anything listens."""
    path = tmp_path / "webhooks.yaml"
    path.write_text("targets: [")
    variables = environment(tmp_path, webhooks_file=path, jobs_dir=tmp_path / "jobs")
    command = [sys.executable, "-m", "slidecascade", "serve", "--port", str(free_port())]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode != 0
    assert "SLIDECASCADE_WEBHOOKS_FILE is not YAML" in done.stderr
    assert "Traceback" not in done.stderr
