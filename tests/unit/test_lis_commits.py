"""Group commit: one transaction for all who wait, and pictures of results."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slidecascade_lis.carriers import NotNowError, RefusedError
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import Picture, Retries
from slidecascade_lis.delivery import Delivery
from slidecascade_lis.orders import Analysis
from slidecascade_lis.pictures import reduced
from slidecascade_lis.records import OrderRecord, Outgoing, Taken, Undelivered
from slidecascade_lis.rejection import SEQUENCE, RejectedMessageError, rejected
from slidecascade_lis.store import Change, Store


def taken(number: int) -> Taken:
    return Taken(f"id-{number}", "HIS|", f"control-{number}", "0" * 64, "OML^O21", "MSH|")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "lis.sqlite"))
    yield opened
    opened.close()


def put(number: int) -> Callable[[Change], None]:
    return lambda change: change.put_message(taken(number), accepted=True, reply="")


def slow(go: threading.Event) -> Callable[[Change], None]:
    """A change that takes until `go` is set."""

    def act(change: Change) -> None:
        go.wait(60)
        change.put_message(taken(0), accepted=True, reply="")

    return act


def stored(store: Store) -> int:
    with store.snapshot() as change:
        return len(change.messages(limit=1000))


async def test_messages_that_wait_share_a_transaction(store: Store) -> None:
    """While one is written, 50 gather and are written together."""
    commits = Commits(store)
    go = threading.Event()
    first = asyncio.create_task(commits.make(slow(go)))
    await asyncio.sleep(0)
    others = [asyncio.create_task(commits.make(put(n), urgent=True)) for n in range(1, 51)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *others)
    assert (commits.transactions, commits.changes) == (2, 51)
    assert stored(store) == 51
    await commits.close()


async def test_messages_do_not_wait_for_other_changes(store: Store) -> None:
    """They come first, and no transaction of others is long; but others get a turn between them."""
    commits = Commits(store)
    go = threading.Event()
    made: list[str] = []
    blocked = asyncio.create_task(commits.make(slow(go)))
    await asyncio.sleep(0)

    def act(name: str) -> Callable[[Change], None]:
        return lambda _change: made.append(name)

    others = [asyncio.create_task(commits.make(act("other"))) for _ in range(40)]
    await asyncio.sleep(0)
    messages = [asyncio.create_task(commits.make(act("message"), urgent=True)) for _ in range(150)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(blocked, *others, *messages)
    assert made[:100] == ["message"] * 100
    assert made[100:158] == ["message"] * 50 + ["other"] * 8
    assert commits.transactions == 1 + 2 + 4
    await commits.close()


@pytest.mark.parametrize("urgent", [True, False])
async def test_a_rejected_change_undoes_itself_alone(store: Store, urgent: bool) -> None:
    """What it wrote before is undone, the others of its transaction are kept."""
    commits = Commits(store)

    def wrong(change: Change) -> None:
        change.put_message(taken(9), accepted=True, reply="")
        raise rejected(SEQUENCE, "wrong")

    def broken(change: Change) -> None:
        change.put_message(taken(8), accepted=True, reply="")
        raise ZeroDivisionError

    def good(change: Change) -> str:
        change.put_message(taken(1), accepted=True, reply="")
        return "done"

    outcomes = await asyncio.gather(
        *(commits.make(act, urgent=urgent) for act in (wrong, good, broken)), return_exceptions=True
    )
    assert isinstance(outcomes[0], RejectedMessageError)
    assert outcomes[1] == "done"
    assert isinstance(outcomes[2], ZeroDivisionError)
    with store.snapshot() as change:
        assert [one.id for one in change.messages(limit=10)] == ["id-1"]
    await commits.close()


async def test_a_cancelled_caller_does_not_stop_the_others(store: Store) -> None:
    commits = Commits(store)
    left = asyncio.create_task(commits.make(put(1)))
    stays = asyncio.create_task(commits.make(put(2)))
    await asyncio.sleep(0)
    left.cancel()
    await stays
    await commits.close()
    assert stored(store) == 2


def test_a_corrected_message_is_forgotten_with_the_answers_of_its_faults(store: Store) -> None:
    """They belong to the message that takes its place, which is kept until they are delivered."""
    wrong, right = taken(1), replace(taken(2), control_id="control-1")
    with store.transaction() as change:
        change.put_message(wrong, accepted=False, reply="")
        change.put_outgoing([Outgoing("answer", wrong.id, None, "lis", "why")])
    with store.transaction() as change:
        change.put_message(right, accepted=True, reply="", replaced=change.known(wrong.sender, wrong.control_id))
        assert [answer.control_id for answer in change.outgoing(message_id=right.id)] == ["answer"]
        assert change.forget(before=time.time() + 1) == 0
        change.delivered([1])
        assert change.forget(before=time.time() + 1) == 1
        assert change.outgoing() == ()


class ToyCarrier:
    """Carries messages but ``2``, which its receiver refuses, until ``4``, for which `full` waits."""

    def __init__(self) -> None:
        self.carried: list[str] = []
        self.full = asyncio.Event()

    async def carry(self, message: Undelivered) -> None:
        if message.content == "2":
            raise RefusedError("AE")
        if message.content == "4":
            self.full.set()
            raise NotNowError("AR")
        self.carried.append(message.content)

    def close(self) -> None:
        """Nothing is open."""


async def test_deliveries_are_written_together(store: Store) -> None:
    """In their order; one that is refused is dead and one that cannot be taken now holds up those after it."""
    commits = Commits(store)
    await commits.make(
        lambda change: change.put_outgoing([Outgoing(str(n), "m", None, "lis", str(n)) for n in range(1, 7)])
    )
    carrier = ToyCarrier()
    delivery = asyncio.create_task(Delivery("lis", Retries(), carrier, store, commits).run())
    await asyncio.wait_for(carrier.full.wait(), 60)
    delivery.cancel()
    await asyncio.gather(delivery, return_exceptions=True)
    await commits.close()
    assert carrier.carried == ["1", "3"]
    with store.snapshot() as change:
        states = [one.state for one in change.outgoing()]
    assert states == ["delivered", "dead", "delivered", "pending", "pending", "pending"]


@pytest.mark.parametrize(("ahead_s", "carried"), [(200.0, []), (365 * 86_400.0, ["1"])])
async def test_a_clock_set_back_delays_no_delivery(store: Store, ahead_s: float, carried: list[str]) -> None:
    """A message waits for its next attempt, but not for a time that no wait reaches."""
    commits = Commits(store)
    await commits.make(lambda change: change.put_outgoing([Outgoing("1", "m", None, "lis", "1")]))
    next_at = time.time() + ahead_s
    await commits.make(lambda change: change.not_delivered(1, next_at=next_at, reason="AR"))
    carrier = ToyCarrier()
    delivery = Delivery("lis", Retries(max_retry_s=300.0), carrier, store, commits)
    assert await delivery._next() == bool(carried)
    await commits.close()
    assert carrier.carried == carried


@pytest.mark.parametrize(("ahead_s", "due"), [(50.0, []), (365 * 86_400.0, ["1"])])
def test_a_clock_set_back_delays_no_order(store: Store, ahead_s: float, due: list[str]) -> None:
    """Nor is an order submitted before its next attempt."""
    order = OrderRecord(
        id="1",
        message_id="id-1",
        sender="HIS|",
        placer="1",
        receiver="lis",
        state="accepted",
        analysis=Analysis(slide="a.svs", pipeline="nash"),
        context="",
        processing="P",
        job_id=None,
        attempts=0,
        created_at=time.time(),
        ended_at=None,
    )
    with store.transaction() as change:
        change.put_message(taken(1), accepted=True, reply="")
        change.add_order(order)
        change.postpone("1", next_at=time.time() + ahead_s)
    with store.transaction() as change:
        assert change.has_due(longest_wait_s=60.0) == bool(due)
        assert [order.id for order in change.due(limit=9, longest_wait_s=60.0)] == due


@pytest.mark.parametrize(("max_side_px", "max_bytes"), [(512, 200_000), (64, 200_000), (512, 20_000)])
def test_a_picture_keeps_its_bounds(tmp_path: Path, max_side_px: int, max_bytes: int) -> None:
    """It has the shape of the whole, as a PNG of bounded sides and size."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "overlay.png")
    content = reduced(tmp_path / "overlay.png", Picture(max_side_px=max_side_px, max_bytes=max_bytes))
    assert content is not None
    assert len(content) <= max_bytes
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert max(image.size) <= max_side_px
        assert image.width == pytest.approx(2 * image.height, abs=2)
