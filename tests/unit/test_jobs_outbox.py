"""Notifications in the database: made with the end of a job, claimed by one, counted and listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres import postgres
from slidecascade.errors import NotReadyError
from slidecascade.jobs.database import Database, open_database
from slidecascade.jobs.outbox import Outbox
from slidecascade.jobs.records import Records
from slidecascade.jobs.workers import Workers
from slidecascade.wire import JobRequest

REQUEST = JobRequest(pipeline="nash", slide="a.svs", notify="lis")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = open_database(None, tmp_path)
        yield made
        made.dispose()
    else:
        with postgres() as url:
            made = open_database(url, tmp_path)
            yield made
            made.dispose()


def add(records: Records, request: JobRequest = REQUEST) -> str:
    return records.add(request, request_id="r", key=None, most_active=100, retry_after_s=2)[0].id


def test_a_notification_is_made_once_for_each_end(database: Database) -> None:
    """By whoever ends the job, and again when a retry ends; none for a job that names no target."""
    records, outbox = Records(database), Outbox(database)
    job = add(records)
    silent = add(records, REQUEST.model_copy(update={"notify": None}))
    assert outbox.list(state=None, limit=10) == ()
    assert records.end(job, 1, "failed")
    assert not records.end(job, 1, "succeeded")
    assert records.end(silent, 1, "succeeded")
    records.retry(job)
    assert records.end(job, 2, "failed")
    made = outbox.list(state="waiting", limit=10)
    assert [(item.job, item.target, item.event) for item in made] == [(job, "lis", "job.failed")] * 2
    assert len({item.id for item in made}) == 2
    assert outbox.counts() == {"waiting": 2, "delivered": 0, "dead": 0}


def test_a_notification_is_claimed_by_one_until_its_lease_ends(database: Database) -> None:
    """The second asker gets nothing; after the lease it is due again, with the same id."""
    records, outbox = Records(database), Outbox(database)
    records.end(add(records), 1, "succeeded")
    first = outbox.claim(lease_s=0.05)
    assert first is not None
    assert outbox.claim(lease_s=60) is None
    again = None
    while again is None:
        again = outbox.claim(lease_s=60)
    assert again.id == first.id
    outbox.delivered(again)
    outbox.failed(first, "it outlived its lease", again_in_s=60)
    assert outbox.claim(lease_s=60) is None
    (reported,) = outbox.list(state="delivered", limit=10)
    assert (reported.attempts, reported.error) == (1, None)


def test_a_failed_notification_waits_then_is_dead(database: Database) -> None:
    """As its sender says; a dead one can be sent again, a waiting one stays as it is."""
    records, outbox = Records(database), Outbox(database)
    records.end(add(records), 1, "succeeded")
    (item,) = outbox.list(state=None, limit=10)
    outbox.failed(item, "status 500", again_in_s=60)
    outbox.failed(item, "it outlived its lease", again_in_s=0)
    assert outbox.claim(lease_s=60) is None
    waiting = outbox.resend(item.id)
    assert waiting is not None
    assert waiting.attempts == 1
    outbox.failed(waiting, "x" * 1000, again_in_s=None)
    (dead,) = outbox.list(state="dead", limit=10)
    assert (dead.attempts, dead.error) == (2, "x" * 200)
    assert outbox.resend(item.id) is not None
    assert outbox.claim(lease_s=60) is not None
    assert outbox.resend("none") is None


def test_the_backlog_counts_kept_and_unfinished_jobs(database: Database) -> None:
    """Fields done and cells of all, waiting ones and age of unfinished ones, take-overs for good."""
    records = Records(database)
    first, second = add(records), add(records)
    records.start(first, 1, fields_total=3, done={0: 10})
    records.start(second, 1, fields_total=5, done={0: 1, 1: 2})
    workers = Workers(database)
    for worker, works in {"a": ["job.1.0"], "b": ["job.1.1", "job.1.2"], "c": []}.items():
        workers.beat(worker)
        workers.bury(worker, works)
        workers.bury(worker, works)  # another process notices the same death
    reported = records.backlog()
    assert reported is not None
    assert (reported.fields, reported.cells, reported.waiting, reported.take_overs) == (3, 13, 5, 2)
    assert reported.oldest_s > 0
    records.end(second, 1, "cancelled")
    reported = records.backlog()
    assert reported is not None
    assert (reported.fields, reported.cells, reported.waiting) == (3, 13, 2)


def test_expired_and_known_jobs(database: Database) -> None:
    """By the time of their end; unfinished ones never expire."""
    records = Records(database)
    first, second = add(records), add(records)
    records.end(first, 1, "succeeded")
    finished_at = records.get(first).finished_at
    assert finished_at is not None
    assert records.expired(ended_before=finished_at) == ()
    assert records.expired(ended_before=finished_at + 1) == (first,)
    assert records.known([first, second, *map(str, range(2000))]) == {first, second}


def test_notifications_in_a_database_that_is_away(tmp_path: Path) -> None:
    """A client may ask for them again later; nothing is claimed, and the metrics go on."""
    away = open_database("postgresql+psycopg://nobody@127.0.0.1:9/none", tmp_path)
    outbox = Outbox(away)
    with pytest.raises(NotReadyError):
        outbox.list(state=None, limit=10)
    with pytest.raises(NotReadyError):
        outbox.resend("msg_0")
    assert outbox.counts() == {}
    assert outbox.claim(lease_s=1) is None
    away.dispose()
