"""Tiles of requests run before tiles of jobs."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from slidecascade.analysis.lanes import Lanes


def test_people_pass_jobs_that_wait() -> None:
    """With one thread: what has begun ends, then people in their order, then jobs in theirs."""
    lanes = Lanes(1, name="t")
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait(30)

    waiting = [lanes.jobs.submit(first)]
    assert begun.wait(30)
    for index in range(3):
        waiting.append(lanes.jobs.submit(order.append, f"job {index}"))
    for index in range(3):
        waiting.append(lanes.people.submit(order.append, f"person {index}"))
    go_on.set()
    for future in waiting:
        future.result(30)
    lanes.shutdown()
    assert order == ["person 0", "person 1", "person 2", "job 0", "job 1", "job 2"]


def test_errors_and_results_reach_who_waits() -> None:
    """As from any executor."""
    lanes = Lanes(2, name="t")
    assert lanes.people.submit(divmod, 7, 2).result(30) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        lanes.jobs.submit(divmod, 1, 0).result(30)
    lanes.shutdown()


def test_what_waits_at_the_end_is_cancelled() -> None:
    """Work that will not start is cancelled, so that no caller waits for it."""
    lanes = Lanes(1, name="t")
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(30)

    running = lanes.people.submit(first)
    assert begun.wait(30)
    done: list[int] = []
    cancelled, left = lanes.people.submit(done.append, 1), lanes.jobs.submit(done.append, 2)
    assert cancelled.cancel()
    ending = threading.Thread(target=lanes.shutdown)
    ending.start()
    with pytest.raises(CancelledError):
        left.result(30)
    go_on.set()
    ending.join(30)
    running.result(30)
    assert done == []
    with pytest.raises(RuntimeError):
        lanes.people.submit(done.append, 3)
