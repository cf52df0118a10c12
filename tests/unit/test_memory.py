"""The memory budget of regions: waiting, rejection and release."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, OverloadedError, RegionTooLargeError
from slidecascade.memory import Budget, BudgetShare, usable_bytes

WAIT_S = 10


@pytest.fixture
def reserved() -> list[int]:
    """What was reserved after every change."""
    return []


@pytest.fixture
def budget(reserved: list[int]) -> Budget:
    return Budget(100, retry_after_s=7, notify=reserved.append)


@pytest.fixture
def begin(budget: Budget) -> Iterator[Callable[..., Future[None]]]:
    """Reserves in a thread of its own, once all that began before wait."""
    pool = ThreadPoolExecutor(4)

    def start(share: BudgetShare, needed: int, control: Control | None = None) -> Future[None]:
        before = budget.waiting
        work = pool.submit(share.reserve, needed, control or Control(deadline_s=WAIT_S))
        poll = threading.Event()
        for _ in range(WAIT_S * 100):
            if work.done() or budget.waiting > before:
                break
            poll.wait(0.01)
        return work

    yield start
    pool.shutdown()


def test_regions_that_fit_together_do_not_wait(budget: Budget, reserved: list[int]) -> None:
    """Reservations add up, shrink and are released once."""
    first, second = budget.share(), budget.share()
    first.reserve(60, Control(deadline_s=0.1))
    second.reserve(40, Control(deadline_s=0.1))
    first.shrink(10)
    first.shrink(50)
    second.release()
    second.release()

    assert [value for value, before in zip(reserved, [0, *reserved], strict=False) if value != before] == [
        60,
        100,
        50,
        10,
    ]


def test_one_that_does_not_fit_waits_for_its_share(budget: Budget, begin: Callable[..., Future[None]]) -> None:
    """First come, first served: a small region does not overtake a large one that waits."""
    first, large, small = budget.share(), budget.share(), budget.share()
    first.reserve(50, Control())
    waits = begin(large, 90)
    waits_behind = begin(small, 5)
    assert not waits.done()
    assert not waits_behind.done()

    first.release()
    waits.result(WAIT_S)
    waits_behind.result(WAIT_S)


def test_one_that_never_fits_is_too_large(budget: Budget) -> None:
    """It is refused at once, however much is free."""
    with pytest.raises(RegionTooLargeError, match="choose a smaller region, or raise SLIDECASCADE_MEMORY_MIB"):
        budget.share().reserve(101, Control())


def test_waiting_ends_with_the_deadline(budget: Budget) -> None:
    """Then the caller may come again: nothing was wrong with the region."""
    budget.share().reserve(50, Control())
    with pytest.raises(OverloadedError, match="try again later") as refused:
        budget.share().reserve(51, Control(deadline_s=0.05))

    assert refused.value.retry_after_s == 7
    budget.share().reserve(50, Control(deadline_s=0.05))  # the one that gave up does not block others


def test_one_that_is_cancelled_waits_no_longer(budget: Budget, begin: Callable[..., Future[None]]) -> None:
    """A client disconnects while its region waits."""
    budget.share().reserve(100, Control())
    control = Control()
    waits = begin(budget.share(), 1, control)
    control.cancel()

    with pytest.raises(CancelledError):
        waits.result(WAIT_S)


def test_more_is_there_or_not_and_is_not_waited_for(budget: Budget) -> None:
    """A region that waits holding memory could wait for another one that waits for it."""
    share, other = budget.share(), budget.share()
    share.reserve(40, Control())
    other.reserve(30, Control())
    share.require(20)
    share.require(70)
    with pytest.raises(OverloadedError):
        share.require(71)
    with pytest.raises(RegionTooLargeError):
        share.require(101)

    other.release()
    share.require(100)


@pytest.mark.parametrize(
    ("content", "expected"), [("1234\n", 1234), ("max\n", None), ("9223372036854771712\n", None), (None, None)]
)
def test_a_container_s_limit_counts(tmp_path: Path, content: str | None, expected: int | None) -> None:
    """Where there is none, or none that limits anything, it is the machine's memory."""
    limit = tmp_path / "memory.max"
    if content is not None:
        limit.write_text(content)

    assert usable_bytes((limit,)) == (expected or usable_bytes(()))
    assert usable_bytes(()) > 2**27


def test_regions_pass_jobs_that_wait_for_memory() -> None:
    """A field that does not fit holds nobody up; it gets what is left when no region waits."""
    budget = Budget(100, retry_after_s=1, notify=lambda held: None)
    first, region, job = budget.share(), budget.share(), budget.share(is_job=True)
    first.reserve(60, Control())
    order: list[str] = []

    def take(share: BudgetShare, needed: int, name: str) -> None:
        share.reserve(needed, Control())
        order.append(name)

    waiting = threading.Thread(target=take, args=(job, 90, "job"))
    waiting.start()
    while not budget._jobs:
        pass
    take(region, 40, "region")
    first.release()
    assert order == ["region"]
    region.release()
    waiting.join(30)
    assert order == ["region", "job"]
    with pytest.raises(RegionTooLargeError):
        budget.share(is_job=True).reserve(101, Control(is_job=True))
