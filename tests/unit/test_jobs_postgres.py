"""Rows of jobs on Postgres: what several processes do at the same moment, and text that it cannot store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from postgres import Postgres
from slidecascade.errors import UnknownJobError
from slidecascade.jobs.database import Database, open_database
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records
from slidecascade.wire import JobRequest

WAIT_S = 60.0
REQUEST = JobRequest(pipeline="nash", slide="a.svs")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()
    server.close()


@pytest.fixture
def database(server: Postgres, tmp_path: Path) -> Iterator[Database]:
    made = open_database(server.database(), tmp_path)
    yield made
    made.dispose()


def add(records: Records, *, key: str | None = None) -> str:
    return records.add(REQUEST, request_id="r", key=key, most_active=100, retry_after_s=2)[0].id


def test_two_workers_report_the_same_field_at_once(database: Database) -> None:
    """As one does that was taken for dead and wakes up: both are answered, and the field counts once."""
    records = Records(database)
    job = add(records)
    assert records.start(job, 1, fields_total=2, done={})
    answers: list[object] = []

    def report() -> None:
        try:
            answers.append(records.finish_field(job, 1, 0, 5))
        except sa.exc.SQLAlchemyError as error:
            answers.append(error)

    second = threading.Thread(target=report)

    def before_commit(_connection: object) -> None:
        """The first has written all, and commits when the second waits for it."""
        second.start()
        ends_at = time.monotonic() + WAIT_S
        with database.connect() as connection:
            while not connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                assert time.monotonic() < ends_at

    sa.event.listen(database, "commit", before_commit, once=True)
    report()
    second.join(WAIT_S)
    assert answers == [False, False]
    assert (records.get(job).fields_done, records.get(job).cells) == (1, 5)


@pytest.mark.parametrize("job", ["\0", "a\0", "\ud800", "x" * 3000, "", "A0000000-0000-0000-0000-000000000000"])
def test_text_that_no_id_has_is_no_job(database: Database, job: str) -> None:
    """Also where the database rejects it."""
    with pytest.raises(UnknownJobError):
        Records(database).get(job)


def test_text_that_no_id_has_is_no_notification(database: Database) -> None:
    Records(database)
    assert Outbox(database).resend("a\0") is None


def test_a_key_longer_than_its_column_is_one_job(database: Database) -> None:
    """That of a job in a batch: the key of the batch, which may have 255 characters, and the index of the job."""
    records = Records(database)
    keys = [f"{'k' * 255}#{index}" for index in (0, 1)]
    jobs = [add(records, key=key) for key in keys]
    assert len(set(jobs)) == 2
    assert [add(records, key=key) for key in keys] == jobs
