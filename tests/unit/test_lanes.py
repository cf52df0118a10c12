"""Tiles of requests do not wait for tiles of jobs."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from concurrent.futures import CancelledError

import pytest

from slidecascade.analysis.lanes import JOB_NICENESS, Lanes


def test_people_begin_while_all_threads_of_jobs_are_busy() -> None:
    """With one thread: what a person asks for is done before the job's tile at hand ends."""
    lanes = Lanes(1, name="t")
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait(30)
        order.append("job")

    waiting = [lanes.jobs.submit(first)]
    assert begun.wait(30)
    waiting += [lanes.jobs.submit(order.append, f"job {index}") for index in range(3)]
    for index in range(3):
        lanes.people.submit(order.append, f"person {index}").result(30)
    go_on.set()
    for future in waiting:
        future.result(30)
    lanes.shutdown()
    assert order == ["person 0", "person 1", "person 2", "job", "job 0", "job 1", "job 2"]


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of threads is Linux's")
def test_threads_of_jobs_stand_back() -> None:
    """Their niceness, which the kernel shares the cores by; the threads of people and the process keep theirs."""

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    lanes = Lanes(1, name="t")
    before = niceness()
    assert lanes.jobs.submit(niceness).result(30) == max(before, JOB_NICENESS)
    assert lanes.people.submit(niceness).result(30) == before
    assert niceness() == before
    lanes.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of threads is Linux's")
def test_a_job_keeps_a_quarter_of_a_core_beside_people_who_never_pause() -> None:
    """Of one core that both want all the time, measured in CPU seconds: at least 20 %, and less than 35 %."""
    lanes = Lanes(1, name="t")
    core = min(os.sched_getaffinity(0))
    both_begun, data = threading.Barrier(2, timeout=30), bytes(2**24)
    spent = {"people": 0.0, "job": 0.0}

    def spin(name: str) -> None:
        os.sched_setaffinity(0, {core})  # of this thread
        both_begun.wait()
        started = time.thread_time()
        while sum(spent.values()) < 2.0:
            zlib.crc32(data)  # releases the interpreter's lock, as networks do
            spent[name] = time.thread_time() - started

    running = [lanes.people.submit(spin, "people"), lanes.jobs.submit(spin, "job")]
    for each in running:
        each.result(120)
    lanes.shutdown()
    assert 0.2 <= spent["job"] / sum(spent.values()) < 0.35


def test_errors_and_results_reach_who_waits() -> None:
    """As from any executor."""
    lanes = Lanes(2, name="t")
    assert lanes.people.submit(divmod, 7, 2).result(30) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        lanes.jobs.submit(divmod, 1, 0).result(30)
    lanes.shutdown()


@pytest.mark.parametrize("lane", ["people", "jobs"])
def test_what_waits_at_the_end_is_cancelled(lane: str) -> None:
    """Work that will not start is cancelled, so that no caller waits for it."""
    lanes = Lanes(1, name="t")
    pool = getattr(lanes, lane)
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(30)

    running = pool.submit(first)
    assert begun.wait(30)
    done: list[int] = []
    cancelled, left = pool.submit(done.append, 1), pool.submit(done.append, 2)
    assert cancelled.cancel()
    ending = threading.Thread(target=lanes.shutdown)
    ending.start()
    with pytest.raises(CancelledError):
        left.result(30)
    go_on.set()
    ending.join(30)
    running.result(30)
    assert done == []
    for each in (lanes.people, lanes.jobs):
        with pytest.raises(RuntimeError):
            each.submit(done.append, 3)
