"""Calls of people and of jobs in the queue of the networks: who goes first, and who is not forgotten."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.errors import OverloadedError
from slidecascade.runners.schedule import JOB_SHARE, Batch, Call, InputKind, Key, Limits, Schedule

PERSON = Key("a", (InputKind("image", "|u1", (64, 64, 3)),))
JOB = Key("a", (InputKind("image", "|u1", (512, 512, 3)),))


class Queue:
    """A schedule whose runs take 10 ms, and 1 ms more for each image."""

    def __init__(self, *, queue_items: int = 1000) -> None:
        self.schedule: Schedule[Call] = Schedule(Limits(batch_items=8, queue_items=queue_items))
        self.now = 0.0

    def add(self, caller: str, items: int = 1, *, is_job: bool = False, key: Key | None = None) -> None:
        key = key or (JOB if is_job else PERSON)
        self.schedule.add(Call(key=key, caller=caller, items=items, arrived_at=self.now, is_job=is_job))

    def run(self) -> Batch[Call]:
        while (batch := self.schedule.turn(self.now).batch) is None:
            self.now += 0.001
        seconds = 0.01 + 0.001 * batch.size
        self.now += seconds
        self.schedule.ran(batch.key, size=batch.size, seconds=seconds, is_job=batch.is_job)
        return batch


def test_people_go_before_jobs_that_came_first() -> None:
    """Also where both send images of one shape, which are not mixed: the batch would take longer."""
    queue = Queue()
    queue.add("job", 8, is_job=True, key=PERSON)
    queue.run()
    queue.add("job", 64, is_job=True, key=PERSON)
    queue.add("person", 4)
    batch = queue.run()
    assert not batch.is_job
    assert batch.items == 4


@settings(deadline=None)
@given(people=st.integers(1, 6), items=st.integers(1, 8), job_items=st.integers(1, 8))
def test_jobs_keep_their_share_while_people_never_pause(people: int, items: int, job_items: int) -> None:
    """Of the time of the networks, to within a few batches; the people have all the rest."""
    queue = Queue(queue_items=100_000)
    spent: Counter[bool] = Counter()
    for _ in range(300):
        for caller in range(people):
            queue.add(f"person {caller}", items)
        queue.add("job", job_items, is_job=True)
        started = queue.now
        batch = queue.run()
        spent[batch.is_job] += queue.now - started  # type: ignore[assignment]
    share = spent[True] / (spent[True] + spent[False])
    assert JOB_SHARE - 0.04 <= share <= JOB_SHARE + 0.04


def test_without_people_jobs_have_everything() -> None:
    """And they save nothing up meanwhile that people would have to wait for."""
    queue = Queue()
    for _ in range(20):
        queue.add("job", 8, is_job=True)
        assert queue.run().is_job
    queue.add("job", 8, is_job=True)
    queue.add("person")
    assert not queue.run().is_job


def test_people_are_not_overloaded_by_jobs() -> None:
    """Images of jobs do not count against people; those of all count against jobs."""
    queue = Queue(queue_items=10)
    queue.add("job", 500, is_job=True)
    queue.add("person", 8)
    queue.add("other", 2)
    with pytest.raises(OverloadedError):
        queue.add("third", 3)
    with pytest.raises(OverloadedError):
        queue.add("next job", 1, is_job=True)
