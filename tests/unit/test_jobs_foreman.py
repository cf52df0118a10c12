"""The work of jobs in one process: what one slide does to the jobs of others."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from fake_analyser import HungDisk
from slidecascade.cancellation import Control
from slidecascade.jobs.database import open_database
from slidecascade.jobs.durable import Durable
from slidecascade.jobs.folders import Folders
from slidecascade.jobs.foreman import Foreman
from slidecascade.jobs.records import Records
from slidecascade.wire import JobRequest

WAIT_S = 60.0


class Queue:
    """A queue of nothing."""

    @contextmanager
    def at_work(self, work: str, control: Control) -> Iterator[None]:
        yield

    def submit_fields(self, job: str, attempt: int, indices: Iterable[int]) -> None: ...

    def submit_collect(self, job: str, attempt: int) -> None: ...

    def cancel(self, job: str, attempt: int) -> None: ...


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    database = open_database(None, tmp_path)
    yield Records(database)
    database.dispose()


def add(records: Records, slide: str) -> str:
    request = JobRequest(pipeline="nash", slide=slide)
    return records.add(request, request_id="r", key=None, most_active=9, retry_after_s=1)[0].id


def test_a_slide_on_a_hung_disk_holds_up_no_other_job(records: Records, tmp_path: Path) -> None:
    """While it is opened, the work of another job ends, here with the problem of its slide."""
    analyser = HungDisk()
    folders = Folders(tmp_path / "jobs", min_free_bytes=0)
    foreman = Foreman(analyser, records, folders, cast("Durable", Queue()))
    hung, other = add(records, "hung.svs"), add(records, "other.svs")
    threads = [threading.Thread(target=foreman.plan, args=(job, 1), daemon=True) for job in (hung, other)]
    threads[0].start()
    assert analyser.asked.wait(WAIT_S)
    threads[1].start()
    try:
        threads[1].join(WAIT_S)
        failure = records.get(other).failure
        assert failure is not None
        assert failure.problem == "unknown-slide"
        assert records.get(hung).status == "queued"
    finally:
        analyser.answers.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert records.get(hung).status == "failed"
