"""Jobs in one process, with slides that are gone or held: submissions, work and an orderly stop."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from fake_analyser import HungDisk
from slidecascade.access.caller import Caller, Limits
from slidecascade.errors import IdempotencyMismatchError, StorageFullError
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.records import JobRecord
from slidecascade.settings import Settings
from slidecascade.wire import JobRequest

WAIT_S = 30.0
SECRET = "whsec_" + "c2xpZGVjYXNjYWRlLXRlc3Qtc2VjcmV0LTE="  # made up here
REQUEST = JobRequest(pipeline="nash", slide="gone.svs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def desk(folder: Path) -> Iterator[Desk]:
    made = Desk(HungDisk(), Settings(jobs_dir=folder, jobs_min_free_bytes=2**60), folder)
    made.start()
    yield made
    made.stop()


def submit(desk: Desk, caller: Caller, request: JobRequest = REQUEST) -> tuple[JobRecord, bool]:
    return desk.submit(request, caller, request_id="r", key="k")


def test_a_repeated_key_is_answered_whatever_has_changed(desk: Desk, folder: Path) -> None:
    """The disk is full, the caller's share is used and the slide is gone: the job that was made is given. Another
    request with the key is a mismatch, a new key a new job, which is rejected."""
    caller = Caller("lab", frozenset({"jobs:write"}), limits=Limits(queued_jobs=1, stored_bytes=1))
    opened = desk._opened()
    made, _ = opened.records.add(
        REQUEST, request_id="r", key="k", most_active=1, retry_after_s=1, owner=caller.name
    )
    (folder / made.id).mkdir()
    (folder / made.id / "result").write_bytes(bytes(10))
    again, is_new = submit(desk, caller)
    assert (again.id, is_new) == (made.id, False)
    with pytest.raises(IdempotencyMismatchError):
        submit(desk, caller, REQUEST.model_copy(update={"label": "other"}))
    with pytest.raises(StorageFullError):
        submit(desk, Caller("lis", caller.scopes))


def test_an_orderly_stop_leaves_the_queue_first(folder: Path, tmp_path: Path) -> None:
    """However long a target and the disk of a slide take to answer: work at hand is blamed for no death then."""
    analyser = HungDisk()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        targets = {"lis": {"url": url, "secrets": [SECRET], "timeout_s": 60}}
        webhooks = tmp_path / "webhooks.yaml"
        webhooks.write_text(yaml.safe_dump({"targets": targets}))
        desk = Desk(analyser, Settings(jobs_dir=folder, webhooks_file=webhooks), folder)
        desk.start()
        stop = threading.Thread(target=desk.stop)
        try:
            for request in (
                REQUEST.model_copy(update={"notify": "lis"}),
                JobRequest(pipeline="nash", slide="hung.svs"),
            ):
                desk._opened().records.add(request, request_id="r", key=None, most_active=9, retry_after_s=1)
            attempt, _ = silent.accept()
            with attempt:
                assert analyser.asked.wait(WAIT_S)
                assert heartbeats(folder) == 1
                stop.start()
                ends_at = time.monotonic() + WAIT_S
                while heartbeats(folder):
                    assert time.monotonic() < ends_at
                    time.sleep(0.02)
        finally:
            analyser.answers.set()
            stop.join()


def heartbeats(folder: Path) -> int:
    """The processes that work on the jobs of a folder."""
    with closing(sqlite3.connect(folder / "jobs.sqlite", timeout=30)) as database:
        count: int = database.execute("SELECT count(*) FROM slidecascade_heartbeats").fetchone()[0]
    return count
