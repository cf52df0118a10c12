"""The service of one model: its queue, its clients, and its configuration in BentoML."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request
from starlette.types import Message

from slidecascade.errors import CancelledError, ModelFailedError, ModelPackageError, OverloadedError, SettingsError
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import load_repository
from slidecascade.models.tensors import Tensors
from slidecascade.settings import Settings
from toy_pipeline import ToyPipeline

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's own
    from slidecascade.hosting.bento_entry import make_service
    from slidecascade.hosting.bento_model import Call, Clients, Queue, model_services

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above, when services are made
IMAGES = {"image": np.zeros((2, 8, 8, 3), np.uint8)}
WAIT_S = 20


class Gated:
    """A runner whose runs wait at a barrier for `parties - 1` others, and which records its runs."""

    def __init__(self, parties: int = 1) -> None:
        self.barrier = threading.Barrier(parties)
        self.began: list[int] = []

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.began.append(batch_of(inputs))
        self.barrier.wait(WAIT_S)
        if batch_of(inputs) == 13:
            raise ZeroDivisionError
        return {"corner": inputs["image"][:, 0, 0].astype(np.float32)}

    def close(self) -> None: ...


class Caller:
    """A connection that the other end closes on request."""

    def __init__(self) -> None:
        self._left = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    def call(self, inputs: Tensors = IMAGES) -> Call:
        return Call(inputs, Request({"type": "http"}, self._receive))

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}


def of(count: int) -> Tensors:
    """The inputs of a call with so many images."""
    return {"image": np.zeros((count, 8, 8, 3), np.uint8)}


def queue(runner: Gated, *, threads: int = 2, max_items: int = 4) -> Queue:
    return Queue(runner, model="toy", threads=threads, max_items=max_items, retry_after_s=3)


async def soon(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in threads
            await asyncio.sleep(0.005)


def start(work: Awaitable[Any]) -> asyncio.Future[Any]:
    return asyncio.ensure_future(work)


async def test_calls_run_side_by_side() -> None:
    """Where BentoML has one thread for all calls, two of them meet here."""
    runner = Gated(2)
    calls = queue(runner)
    answers = await asyncio.gather(*(calls.answer(Caller().call()) for _ in range(2)))
    assert [batch_of(answer) for answer in answers] == [2, 2]


async def test_images_that_may_wait_are_counted() -> None:
    """One call of any size may wait alone; calls beyond the limit are rejected with Retry-After."""
    runner = Gated(2)
    calls = queue(runner, threads=1, max_items=4)
    first = start(calls.answer(Caller().call()))
    await soon(lambda: runner.began)
    large = start(calls.answer(Caller().call(of(9))))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="queue of model 'toy' is full with 9 images") as refused:
        await calls.answer(Caller().call())
    assert refused.value.retry_after_s == 3
    for left in (first, large):  # each opens the barrier for the one that runs
        await asyncio.to_thread(runner.barrier.wait, WAIT_S)
        await left
    assert runner.began == [2, 9]
    third = start(calls.answer(Caller().call()))
    await soon(lambda: len(runner.began) == 3)
    runner.barrier.wait(WAIT_S)
    assert batch_of(await third) == 2


async def test_a_call_of_a_disconnected_client_is_not_run() -> None:
    """It leaves the queue, and its place in it is free again."""
    runner = Gated(2)
    calls = queue(runner, threads=1, max_items=2)
    running = start(calls.answer(Caller().call()))
    await soon(lambda: runner.began)
    gone = Caller()
    waiting = start(calls.answer(gone.call(of(1))))
    await asyncio.sleep(0)
    gone.leave()
    with pytest.raises(CancelledError):
        await waiting
    runner.barrier.wait(WAIT_S)
    await running
    last = start(calls.answer(Caller().call()))
    await soon(lambda: len(runner.began) == 2)
    runner.barrier.wait(WAIT_S)
    await last
    assert runner.began == [2, 2]


async def test_a_failure_of_the_network_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """In one sentence, and with its trace in the log; the next call runs."""
    calls = queue(Gated())
    with pytest.raises(ModelFailedError, match="Model 'toy' failed unexpectedly"):
        await calls.answer(Caller().call(of(13)))
    assert "ZeroDivisionError" in caplog.text
    assert batch_of(await calls.answer(Caller().call())) == 2


async def test_callers_are_counted_until_they_leave_or_have_to() -> None:
    """With this a stopping service knows whether it is still used."""
    clients = Clients()
    with clients.connected():
        assert clients.in_flight == 1
        assert not await clients.wait_for_shutdown(timeout_s=0.01)
        clients.close()
        assert not await clients.wait_for_shutdown(timeout_s=0.01)
        clients.abandon()
        assert await clients.wait_for_shutdown(timeout_s=WAIT_S)
    assert clients.in_flight == 0


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ToyPipeline(tmp_path_factory.mktemp("toy")).models_dir


def test_models_get_a_service_where_the_settings_say_so(models_dir: Path) -> None:
    """None by default, and then nothing is read; one for each model, or for those that are named."""
    assert model_services(Settings(models_dir=Path("nowhere"))) == {}
    names = {"toy-classifier", "toy-second", "toy-segmenter"}
    assert model_services(Settings(models_dir=models_dir, runner="bento")).keys() == names
    named = Settings(models_dir=models_dir, runner_by_model="toy-second=bento")
    assert model_services(named).keys() == {"toy-second"}
    with pytest.raises(SettingsError, match="names 'gold'"):
        model_services(Settings(models_dir=models_dir, runner_by_model="gold=bento"))
    with pytest.raises(ModelPackageError, match="does not exist"):
        model_services(Settings(models_dir=Path("nowhere"), runner="bento"))


def test_the_configuration_passed_to_bentoml(models_dir: Path) -> None:
    """Batchable, at an address that holds the sha256; no new sessions, no time limit, no raw paths."""
    service = model_services(Settings(models_dir=models_dir, runner="bento"))["toy-second"]
    sha256 = load_repository(models_dir)["toy-second"].spec.sha256
    assert service.name == "model-toy-second"
    assert (service.apis["run"].batchable, service.apis["run"].route) == (True, f"/{sha256}/run")
    assert min(service.config["runner_connection"].values()) > 1e8
    assert service.config["traffic"]["timeout"] > 1e8
    assert service.config["metrics"] == {"enabled": False}
    assert service.config["logging"] == {"access": {"enabled": False}}
    assert "resources" not in service.config


@pytest.mark.parametrize(("gpus", "share"), [("0", 1 / 3), ("1,3", 2 / 3), ("0,1,2,3", 1)])
def test_gpus_are_asked_for(models_dir: Path, gpus: str, share: float) -> None:
    """A whole one for each model where there are enough, else the models share them."""
    settings = Settings(models_dir=models_dir, runner="bento", device="cuda", gpus=gpus)
    asked = [service.config["resources"] for service in model_services(settings).values()]
    assert asked == [{"gpu": pytest.approx(share)}] * 3


def test_the_service_depends_on_those_of_the_models(models_dir: Path) -> None:
    """Under names that any model's name can have, and whether or not they were there when it was packed."""
    service = make_service(Settings(models_dir=models_dir, runner="bento"))
    assert {dependency.on.name for dependency in service.dependencies.values()} == {
        "model-toy-classifier",
        "model-toy-second",
        "model-toy-segmenter",
    }
    packed = object()
    service.on_load_bento(packed)
    assert all(one.bento is packed for one in service.all_services().values())
    assert make_service(Settings(models_dir=models_dir)).dependencies == {}
