"""Heartbeats by the observer's own clock, deaths that count once, suspects that run alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, NotReadyError
from slidecascade.jobs.database import open_database
from slidecascade.jobs.quarantine import Quarantine
from slidecascade.jobs.records import Records
from slidecascade.jobs.workers import Liveness, Workers

WAIT_S = 30.0


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    database = open_database(None, tmp_path)
    yield Workers(database)
    database.dispose()


def test_heartbeats_grow_until_a_worker_leaves(workers: Workers) -> None:
    """Everybody sees the numbers of all; one that leaves in order is not among them."""
    assert workers.beat("a") == {"a": 1}
    assert workers.beat("b") == {"a": 1, "b": 1}
    assert workers.beat("a") == {"a": 2, "b": 1}
    workers.leave("a")
    assert workers.beat("b") == {"b": 2}


def test_a_death_counts_once_however_many_notice_it(workers: Workers) -> None:
    """Who removes the heartbeats counts; an orderly stop counts nothing; a job is forgotten with its deaths."""
    workers.beat("a")
    assert workers.bury("a", ["job.1.4", "job.1.5"]) == {"job.1.4": 1, "job.1.5": 1}
    assert workers.bury("a", ["job.1.4"]) == {"job.1.4": 1}
    workers.beat("b")
    assert workers.bury("b", ["job.1.4"]) == {"job.1.4": 2}
    workers.beat("c")
    workers.leave("c")
    assert workers.bury("c", ["job.1.4"]) == {"job.1.4": 2}
    assert (workers.deaths("job.1.4"), workers.deaths("job.1.6")) == (2, 0)
    workers.forget("job")
    assert workers.deaths("job.1.4") == 0


def test_a_death_is_blamed_on_what_was_done_alone(workers: Workers) -> None:
    """What waited to be done alone is not blamed, however often it waits; nor is it while others were at work."""
    workers.beat("a")
    workers.bury("a", ["poison.1.1", "good.1.1"])
    for deaths in (2, 3):
        workers.beat("b")
        with workers.alone("b", "good.1.0"):
            pass  # done, and not blamed for what comes after it
        with suppress(_DiedError), workers.alone("b", "poison.1.1"):
            found = workers.bury("b", ["good.1.1", "poison.1.1"])
            raise _DiedError
        assert found == {"good.1.1": 1, "poison.1.1": deaths}
    workers.beat("c")
    assert workers.bury("c", ["good.1.1", "new.1.0"]) == {"good.1.1": 1, "new.1.0": 1}
    workers.beat("d")
    assert workers.bury("d", ["good.1.1", "new.1.0"]) == {"good.1.1": 2, "new.1.0": 2}


class _DiedError(Exception):
    pass


def test_who_is_silent_is_measured_by_the_observers_clock_alone() -> None:
    """A number that does not change for a lease; any change, even back to 1, is a sign of life."""
    liveness = Liveness(3.0)
    assert liveness.silent({"a": 5, "b": 7}, now=100.0) == frozenset()
    assert liveness.silent({"a": 6, "b": 7}, now=102.9) == frozenset()
    assert liveness.silent({"a": 6, "b": 7}, now=103.0) == {"b"}
    assert liveness.silent({"a": 6, "b": 1}, now=105.8) == frozenset()
    assert liveness.silent({"a": 6}, now=105.9) == {"a"}


def test_after_an_outage_everybody_has_a_whole_lease() -> None:
    """While the database is away nobody can record a heartbeat: that is no death."""
    liveness = Liveness(3.0)
    liveness.silent({"a": 5}, now=100.0)
    liveness.forget()
    assert liveness.silent({"a": 5}, now=160.0) == frozenset()
    assert liveness.silent({"a": 5}, now=163.0) == {"a"}


def test_a_suspect_runs_alone() -> None:
    """It waits for those that run, nobody begins meanwhile, and the others go on after it."""
    quarantine = Quarantine()
    order: list[str] = []
    inside, leave, suspect_waits = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quarantine.entered(Control(), alone=False):
            inside.set()
            assert leave.wait(WAIT_S)
            order.append("first")

    def suspect() -> None:
        suspect_waits.set()
        with quarantine.entered(Control(), alone=True):
            order.append("suspect")

    def last() -> None:
        with quarantine.entered(Control(), alone=False):
            order.append("last")

    threads = [threading.Thread(target=work) for work in (first, suspect, last)]
    threads[0].start()
    assert inside.wait(WAIT_S)
    threads[1].start()
    assert suspect_waits.wait(WAIT_S)
    while not quarantine._waiting_alone:
        pass
    threads[2].start()
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["first", "suspect", "last"]


def test_waiting_to_be_alone_ends_with_the_process() -> None:
    """A cancelled control ends the wait, and others can go on."""
    quarantine = Quarantine()
    stopped = Control()
    stopped.cancel()
    with (
        quarantine.entered(Control(), alone=False),
        pytest.raises(CancelledError),
        quarantine.entered(stopped, alone=True),
    ):
        pass
    with quarantine.entered(Control(), alone=False):
        pass


def test_a_database_that_is_away_is_named(tmp_path: Path) -> None:
    """The problem is one that a client may try again after, not an internal error."""
    away = open_database("postgresql+psycopg://nobody@127.0.0.1:9/none", tmp_path)
    with pytest.raises(NotReadyError, match="cannot be reached"):
        Records(away)
    away.dispose()
