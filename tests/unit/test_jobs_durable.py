"""The queue of jobs: what is taken out of it, and what stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slidecascade.jobs.database import Database, open_database
from slidecascade.jobs.durable import Durable
from slidecascade.jobs.records import Records
from slidecascade.jobs.workers import Workers

WAIT_S = 60.0


class HeldWork:
    """Plans of jobs `held` wait for `go`; `done` are those of all others, `planned` when there are so many."""

    def __init__(self, held: set[str], *, others: int) -> None:
        self.held, self.others = held, others
        self.begun = threading.Barrier(len(held) + 1)
        self.go = threading.Event()
        self.done: list[str] = []
        self.planned = threading.Event()

    def plan(self, job: str, attempt: int) -> None:
        if job in self.held:
            self.begun.wait(WAIT_S)
            assert self.go.wait(WAIT_S)
            return
        self.done.append(f"{job}.{attempt}")
        if len(self.done) == self.others:
            self.planned.set()

    def field(self, job: str, attempt: int, index: int) -> None: ...

    def collect(self, job: str, attempt: int) -> None: ...

    def give_up(self, job: str, attempt: int) -> None: ...


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    made = open_database(None, tmp_path), open_database(None, tmp_path)
    yield made
    for database in made:
        database.dispose()


def test_the_end_of_an_attempt_leaves_the_next_one_queued(databases: tuple[Database, Database]) -> None:
    """A client may retry a job between the end of its attempt and the moment that its work leaves the queue."""
    durable = Durable(
        databases[1], Records(databases[0]), Workers(databases[0]), fields=1, lease_s=60, is_alone=True
    )
    work = HeldWork({"a", "b"}, others=3)
    durable.start(work)
    try:
        for job in work.held:  # as many as are planned at a time
            durable.submit(job, 1)
        work.begun.wait(WAIT_S)
        for attempt in (1, 2, 10):
            durable.submit("job", attempt)
        durable.cancel("job", 1)
        durable.submit("last", 1)
        work.go.set()
        assert work.planned.wait(WAIT_S)
        assert set(work.done) == {"job.2", "job.10", "last.1"}
    finally:
        work.go.set()
        durable.stop()
