"""Rows of jobs: states change once, keys make one job, progress counts each field once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from postgres import postgres
from slidecascade.errors import (
    IdempotencyMismatchError,
    LimitExceededError,
    OverloadedError,
    UnknownJobError,
)
from slidecascade.jobs.database import Database, open_database
from slidecascade.jobs.records import Failure, JobRecord, Records
from slidecascade.wire import JobRequest

REQUEST = JobRequest(pipeline="nash", slide="a.svs", label="x")


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    database = open_database(None, tmp_path)
    yield Records(database)
    database.dispose()


def add(records: Records, *, key: str | None = None, request: JobRequest = REQUEST) -> JobRecord:
    return records.add(request, request_id="r", key=key, most_active=100, retry_after_s=2)[0]


def test_a_job_ends_once(records: Records) -> None:
    """Whoever is first; a retry is another attempt, which the work of the first cannot end."""
    job = add(records).id
    assert records.is_current(job, 1)
    assert records.end(job, 1, "failed", Failure("model-failed", "Model failed", "It did."))
    assert not records.end(job, 1, "succeeded")
    reported = records.get(job)
    assert (reported.status, reported.failure) == ("failed", Failure("model-failed", "Model failed", "It did."))
    retried = records.retry(job)
    assert retried is not None
    assert (retried.status, retried.attempt, retried.failure) == ("queued", 2, None)
    assert not records.is_current(job, 1)
    assert not records.end(job, 1, "succeeded")
    assert records.end(job, 2, "succeeded")
    assert records.retry(job) is None


def test_a_field_counts_once(records: Records) -> None:
    """However often it is reported; the last one says that all are done."""
    job = add(records).id
    assert records.start(job, 1, fields_total=3, done={0: 10})
    assert not records.finish_field(job, 1, 1, 5)
    assert not records.finish_field(job, 1, 1, 5)
    assert records.finish_field(job, 1, 2, 7)
    reported = records.get(job)
    assert (reported.fields_done, reported.fields_total, reported.fields_before, reported.cells) == (3, 3, 1, 22)
    records.end(job, 1, "cancelled")
    assert not records.start(job, 1, fields_total=3, done={})


def test_a_retry_counts_its_own_fields(records: Records) -> None:
    """Of a slide that is cut into fewer fields now: those of the attempt before are no part of it, and what a
    straggler of that attempt reports changes nothing."""
    job = add(records).id
    assert records.start(job, 1, fields_total=3, done={})
    assert [records.finish_field(job, 1, index, 5) for index in (0, 1)] == [False, False]
    records.end(job, 1, "failed")
    assert not records.finish_field(job, 1, 2, 5)
    retried = records.retry(job)
    assert retried is not None
    assert (retried.fields_total, retried.fields_done, retried.cells) == (None, 0, 0)
    assert not records.finish_field(job, 1, 1, 5)
    assert not records.start(job, 1, fields_total=3, done={0: 5, 1: 5})
    assert records.start(job, 2, fields_total=2, done={})
    assert not records.finish_field(job, 2, 0, 4)
    assert not records.finish_field(job, 1, 1, 5)
    assert (records.get(job).fields_done, records.get(job).cells) == (1, 4)
    assert records.finish_field(job, 2, 1, 4)
    assert (records.get(job).fields_done, records.get(job).cells) == (2, 8)


def test_a_key_is_one_job_however_many_ask_at_once(records: Records) -> None:
    """From many threads: one row, the same id for all."""
    found: list[str] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(add(records, key="k").id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    with pytest.raises(IdempotencyMismatchError):
        add(records, key="k", request=REQUEST.model_copy(update={"label": "y"}))
    assert len(records.list(limit=10)) == 1


def test_the_number_of_jobs_is_bounded(records: Records) -> None:
    """Those that have ended do not count; a repeated key is answered all the same."""
    job = records.add(REQUEST, request_id="r", key="k", most_active=1, retry_after_s=2)[0].id
    with pytest.raises(OverloadedError):
        records.add(REQUEST, request_id="r", key=None, most_active=1, retry_after_s=2)
    assert records.add(REQUEST, request_id="r", key="k", most_active=1, retry_after_s=2) == (
        records.get(job),
        False,
    )
    records.end(job, 1, "succeeded")
    records.add(REQUEST, request_id="r", key=None, most_active=1, retry_after_s=2)


def test_a_job_is_forgotten_with_its_fields(records: Records) -> None:
    """Only when it has ended."""
    job = add(records).id
    records.start(job, 1, fields_total=1, done={0: 3})
    assert not records.remove(job)
    records.end(job, 1, "succeeded")
    assert records.remove(job)
    with pytest.raises(UnknownJobError):
        records.get(job)


@pytest.mark.parametrize("ask", [lambda records: records.list(limit=9), Records.active], ids=["list", "active"])
def test_a_list_is_of_one_moment(tmp_path: Path, ask: Callable[[Records], Sequence[JobRecord]]) -> None:
    """A job that is deleted while jobs are listed is in the list or not, with its fields."""
    database, another = open_database(None, tmp_path), open_database(None, tmp_path)
    records = Records(database)
    jobs = [add(records).id for _ in range(3)]
    records.start(jobs[1], 1, fields_total=2, done={0: 3, 1: 4})

    def delete(*_: object) -> None:
        with another.begin() as connection:
            connection.execute(sa.text("DELETE FROM slidecascade_jobs"))

    sa.event.listen(database, "after_cursor_execute", delete)
    found = sorted(ask(records), key=lambda record: record.created_at)
    assert [(record.id, record.fields_done, record.cells) for record in found] == [
        (jobs[0], 0, 0),
        (jobs[1], 2, 7),
        (jobs[2], 0, 0),
    ]
    database.dispose()
    another.dispose()


def owned(records: Records, owner: str | None, *, key: str | None = None, most: int | None = None) -> JobRecord:
    return records.add(
        REQUEST, request_id="r", key=key, most_active=100, retry_after_s=2, owner=owner, most_owned=most
    )[0]


def test_a_key_of_two_owners_is_two_jobs(records: Records) -> None:
    """And neither owner learns of the other's; the owner of a job is kept with it."""
    jobs = [owned(records, owner, key="k") for owner in ("lab", "lis", None)]
    assert len({job.id for job in jobs}) == 3
    assert owned(records, "lab", key="k").id == jobs[0].id
    assert [job.owner for job in jobs] == ["lab", "lis", None]
    assert [job.id for job in records.list(limit=9, owners=("lis",))] == [jobs[1].id]
    assert [job.id for job in records.list(limit=9, owners=(None,))] == [jobs[2].id]
    assert len(records.list(limit=9)) == 3
    assert records.owned("lab") == (jobs[0].id,)


def test_an_owner_has_its_own_number_of_jobs(records: Records) -> None:
    """A repeated key is answered all the same, other owners are not concerned, ended jobs do not count."""
    job = owned(records, "lab", key="k", most=1)
    with pytest.raises(LimitExceededError, match="queued_jobs"):
        owned(records, "lab", most=1)
    with pytest.raises(LimitExceededError, match="queued_jobs"):
        records.require_queue("lab", 1, retry_after_s=2)
    assert owned(records, "lab", key="k", most=1).id == job.id
    owned(records, "lis", most=1)
    records.end(job.id, 1, "succeeded")
    owned(records, "lab", most=1)


def without_new_columns(database: Database) -> str:
    """Take the columns away that later versions have added; the id of a job that was there before."""
    job = add(Records(database), key="old").id
    with database.begin() as connection:
        connection.execute(sa.text("DROP INDEX ix_slidecascade_jobs_owner"))
        for column in ("owner", "upload_sha256", "content_id", "has_cells"):
            connection.execute(sa.text(f"ALTER TABLE slidecascade_jobs DROP COLUMN {column}"))
    return job


def test_a_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its jobs are kept, and belong to nobody; new jobs have owners. The second start changes nothing."""
    database = open_database(None, tmp_path)
    job = without_new_columns(database)
    for _ in range(2):
        records = Records(database)
        assert (records.get(job).owner, records.get(job).is_upload) == (None, False)
        assert records.get(job).has_cells  # it may have: nothing was recorded of it
        assert owned(records, "lab", key="new").owner == "lab"
        assert owned(records, None, key="old").id == job
    database.dispose()


def test_a_postgres_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """As one of SQLite is."""
    with postgres() as url:
        database = open_database(url, tmp_path)
        job = without_new_columns(database)
        records = Records(database)
        assert records.get(job).owner is None
        assert owned(records, "lab", key="new").owner == "lab"
        assert owned(records, None, key="old").id == job
        database.dispose()
