"""Graceful shutdown, with real signals to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from slidecascade import logs
from slidecascade.errors import DrainingError, OverloadedError
from slidecascade.metrics import Metrics
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.middleware.drain import SIGNALS, WAITING, Drain


@pytest.fixture
def admission() -> Admission:
    return Admission(regions=1, inferences=1, max_arriving_bytes=200_000, retry_after_s=3, metrics=Metrics())


@pytest.fixture
def handed_on() -> Iterator[list[int]]:
    """Signals that reach the server whose handlers are taken over."""
    received: list[int] = []

    def server(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, server) for number in SIGNALS}
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing sets an event for it
            await asyncio.sleep(0.005)


async def others_end() -> None:
    """Wait for all other tasks of the loop: a drain, and a second one that must not exist."""
    async with asyncio.timeout(20):
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


async def test_places_are_limited_and_given_back(admission: Admission) -> None:
    """A place is free again whether the work succeeded or failed."""

    async def fail() -> None:
        async with admission.region() as place:
            place.enter()
            await be_refused()
            raise ValueError("work")

    async def be_refused() -> None:
        with pytest.raises(OverloadedError) as caught:
            await admission.region().__aenter__()
        assert caught.value.retry_after_s == 3

    for _ in range(2):
        with pytest.raises(ValueError, match="work"):
            await fail()
    assert admission.in_flight == 0


async def test_a_body_that_arrives_takes_no_slot(admission: Admission) -> None:
    """Slow bodies take no slots; the drain waits for all of them."""
    async with admission.region(), admission.region(), admission.region() as quick:
        assert admission.in_flight == 3
        quick.enter()
    async with admission.region() as next_one:
        next_one.enter()


async def test_who_arrives_when_no_slot_is_left_is_refused(admission: Admission) -> None:
    """Two uploads at a time may both have begun when there was a slot."""
    async with admission.region() as first, admission.region() as second:
        first.enter()
        with pytest.raises(OverloadedError, match="regions"):
            second.enter()


async def test_bodies_that_arrive_are_bounded_in_bytes(admission: Admission) -> None:
    """Beyond what they may hold together a large one is refused and a small one is not, until one has arrived."""
    async with admission.region() as first, admission.inference() as second:
        first.received(150_000)
        second.received(150_000)
        async with admission.region() as small:
            small.received(60_000)
            with pytest.raises(OverloadedError, match="memory"):
                small.received(60_000)
        first.enter()
        async with admission.inference() as large:
            large.received(170_000)


async def test_bodies_that_arrive_are_bounded_in_number(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that hold nothing; one that leaves makes room."""
    monkeypatch.setattr("slidecascade.web.arrivals.MAX_BODIES", 2)
    async with admission.region():
        async with admission.inference():
            with pytest.raises(OverloadedError, match="2 requests are being received"):
                await admission.region().__aenter__()
        async with admission.region():
            pass


async def test_inferences_have_places_of_their_own(admission: Admission) -> None:
    """Regions and inferences have separate slots; the drain waits for both."""
    async with admission.region() as region, admission.inference() as inference:
        region.enter()
        inference.enter()
        assert admission.in_flight == 2
        with pytest.raises(OverloadedError, match="inferences"):
            await admission.inference().__aenter__()
    assert admission.in_flight == 0
    admission.close()
    with pytest.raises(DrainingError):
        await admission.inference().__aenter__()


async def test_a_thread_keeps_its_place_to_the_end(admission: Admission) -> None:
    """A request that abandons its thread frees the slot only when the thread has ended."""
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with admission.region() as place:
        place.enter()
        place.work = work
        assert admission.in_flight == 1
    assert admission.in_flight == 1
    with pytest.raises(OverloadedError):
        await admission.region().__aenter__()
    work.set_result(None)
    await asyncio.sleep(0)
    assert admission.in_flight == 0
    async with admission.region() as place:
        place.work = work
    assert admission.in_flight == 0


async def test_a_timeout_of_the_work_is_its_own(admission: Admission) -> None:
    """Only a cancelled region gets `draining`."""
    with pytest.raises(TimeoutError):
        async with admission.region():
            raise TimeoutError


async def test_the_signal_waits_for_the_work(
    admission: Admission, handed_on: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """After SIGTERM new requests are rejected, and the server gets the signal when the last region is finished."""
    caplog.set_level("INFO", "slidecascade")
    Drain(admission, notice_s=0.0, grace_s=5).take_over()
    async with admission.region():
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: WAITING in caplog.messages)
        assert admission.closed
        with pytest.raises(DrainingError):
            async with admission.region():
                pass
        assert handed_on == []
    await others_end()
    assert handed_on == [signal.SIGTERM]


async def test_the_listener_stays_for_the_notice(admission: Admission, handed_on: list[int]) -> None:
    """An idle server keeps answering for the notice, so that load balancers can react."""
    Drain(admission, notice_s=0.3, grace_s=5).take_over()
    started = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: admission.closed)
    assert handed_on == []
    await others_end()
    assert handed_on == [signal.SIGINT]
    assert time.monotonic() - started >= 0.3


async def test_work_that_outlasts_the_grace_is_abandoned(admission: Admission, handed_on: list[int]) -> None:
    """After the grace period a region in flight gets `draining`."""
    Drain(admission, notice_s=0.0, grace_s=0.1).take_over()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(DrainingError):
        async with asyncio.timeout(5), admission.region():
            await asyncio.Event().wait()
    await others_end()
    assert handed_on == [signal.SIGTERM]


async def test_a_drain_belongs_to_no_request(
    admission: Admission,
    handed_on: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal may interrupt a request; the log lines of the drain do not contain its id."""
    monkeypatch.setattr(caplog.handler, "formatter", logs.JsonFormatter())
    Drain(admission, notice_s=0.0, grace_s=5).take_over()
    with caplog.at_level("INFO", "slidecascade"), logs.request("a-stranger"):
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: admission.closed)
    await others_end()
    assert handed_on == [signal.SIGTERM]
    assert "draining" in caplog.text
    assert "a-stranger" not in caplog.text


async def test_two_different_signals_start_one_drain(admission: Admission, handed_on: list[int]) -> None:
    """Ctrl-C in a terminal reaches a worker as SIGINT and, through its supervisor, as SIGTERM."""
    Drain(admission, notice_s=0.0, grace_s=5).take_over()
    async with admission.region():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: admission.closed)
    await others_end()
    assert handed_on == [signal.SIGINT]
