"""Orders of the LIS bridge as jobs of a stand-in for the service, and receivers that were removed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.lis.kills import write_config
from benchmarks.lis.standin import PIPELINE, SLIDE, StandIn, standing_in

from lis_messages import message, msh, order
from slidecascade.cli import main
from slidecascade_client import AsyncClient, RetryPolicy
from slidecascade_lis.catalogue import Catalogue
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import LisConfig, read_config
from slidecascade_lis.er7 import read_lines, read_message
from slidecascade_lis.orders import Analysis, read_orders
from slidecascade_lis.records import OrderRecord, Outgoing
from slidecascade_lis.store import Store
from slidecascade_lis.work import Work

ORDER = OrderRecord(
    id="order-1",
    message_id="message-1",
    sender="HIS|",
    placer="1",
    receiver="lis",
    state="accepted",
    analysis=Analysis(slide=SLIDE, pipeline=PIPELINE),
    context="ORC|NW|1\r",
    processing="P",
    job_id=None,
    attempts=0,
    created_at=0.0,
    ended_at=None,
)


@pytest.fixture
def service() -> Iterator[StandIn]:
    with standing_in(seconds=0.0) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, service_url="http://127.0.0.1:1", port=0, result_port=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "lis.sqlite"))
    yield opened
    opened.close()


@asynccontextmanager
async def working(config: LisConfig, store: Store, service: StandIn) -> AsyncIterator[Work]:
    commits = Commits(store)
    async with AsyncClient(service.url, retry=RetryPolicy(max_tries=1)) as client:
        yield Work(config, store, commits, client, answered=lambda: None)
    await commits.close()


def put(store: Store, *orders: OrderRecord) -> None:
    with store.transaction() as change:
        for order in orders:
            change.add_order(order)


def state(store: Store, order_id: str = ORDER.id) -> str:
    with store.snapshot() as change:
        order = change.order(order_id)
    assert order is not None
    return order.state


@pytest.mark.parametrize("slide", [SLIDE, "unknown.svs"])
async def test_an_order_that_cannot_be_answered_stops_no_other(
    config: Path, store: Store, service: StandIn, slide: str
) -> None:
    """Neither when its job has ended, nor when the service rejects it; it is kept."""
    lost = replace(ORDER, id="order-0", receiver="renamed", analysis=Analysis(slide=slide, pipeline=PIPELINE))
    put(store, lost, ORDER)
    async with working(read_config(config), store, service) as work:
        for _ in range(3):
            await work._round()
    assert state(store) == "succeeded"
    assert state(store, "order-0") in ("submitting", "submitted")
    with store.snapshot() as change:
        assert [(answer.order_id, answer.receiver) for answer in change.outgoing()] == [(ORDER.id, "lis")]


@pytest.mark.parametrize("status", [404, 405, 408, 421])
async def test_a_status_of_a_proxy_ends_no_order(
    config: Path, store: Store, service: StandIn, status: int
) -> None:
    """Without a problem document it is not the service's word: the order is submitted when the proxy works."""
    put(store, ORDER)
    service.bare_status = status
    async with working(read_config(config), store, service) as work:
        await work._round()
        assert state(store) == "submitting"
        service.bare_status = 0
        with store.transaction() as change:
            change.postpone(ORDER.id, next_at=0.0)
        for _ in range(2):
            await work._round()
    assert state(store) == "succeeded"


@pytest.mark.parametrize("is_submitted", [True, False])
async def test_a_status_of_a_proxy_ends_no_cancellation(
    config: Path, store: Store, service: StandIn, is_submitted: bool
) -> None:
    """The job is cancelled when the proxy works again, also one whose id is not known yet."""
    service.seconds = 600
    put(store, ORDER)
    async with working(read_config(config), store, service) as work:
        if is_submitted:
            await work._round()
        with store.transaction() as change:
            change.due(limit=1, longest_wait_s=60.0)
            change.end_order(ORDER.id, "cancelled", stop=True)
        service.bare_status = 404
        await work._round()
        service.bare_status = 0
        assert service.cancelled == set()
        await work._round()
    assert service.cancelled == set(service.jobs.values()) != set()


async def test_a_status_of_a_proxy_makes_no_name_unknown(config: Path, service: StandIn) -> None:
    """Names are not checked meanwhile; one that the service does not know is reported."""
    orders = read_orders(
        read_message(read_lines(message(msh(), *order("1", slide="unknown.svs")))),
        read_config(config).orders,
        pseudonym_key=None,
    )
    async with AsyncClient(service.url, retry=RetryPolicy(max_tries=1)) as client:
        service.bare_status = 404
        assert await Catalogue(client, slides_may_come_later=False).findings(orders) == []
        service.bare_status = 0
        (found,) = await Catalogue(client, slides_may_come_later=False).findings(orders)
    assert "no slide 'unknown.svs'" in found.text


@pytest.mark.parametrize("waiting", ["order", "answer"])
def test_the_bridge_does_not_start_without_a_receiver_that_is_awaited(
    config: Path, store: Store, capsys: pytest.CaptureFixture[str], waiting: str
) -> None:
    """Nor are answers queued for it; one sentence names it and what to do."""
    answer = Outgoing("control", ORDER.message_id, None, "renamed", "MSH|")
    with store.transaction() as change:
        if waiting == "order":
            change.add_order(replace(ORDER, receiver="renamed"))
        else:
            change.put_outgoing([answer])
    assert main(["lis", "serve", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "(1) wait for the receiver 'renamed', which is not configured: add it again" in error
    assert error.count("\n") == 1
    with store.transaction() as change:
        change.end_order(ORDER.id, "failed")
        change.dead(1, reason="AE")
    assert main(["lis", "resend", "control", "--config", str(config)]) == 2
    assert ("renamed" in capsys.readouterr().err) == (waiting == "answer")
    with store.snapshot() as change:
        assert change.awaited_receivers() == {}
