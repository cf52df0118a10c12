"""The runner in front of models' services, with services that do what a test says."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus
from typing import Any

import aiohttp
import numpy as np
import pytest
from bentoml.exceptions import BentoMLException, NotFound

import toy_models
from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    DrainingError,
    ModelFailedError,
    ModelPackageError,
    NotReadyError,
    OverloadedError,
    UnknownModelError,
)
from slidecascade.models.batches import batch_of, joined
from slidecascade.models.repository import ModelPackage, load_package
from slidecascade.models.tensors import Tensors
from slidecascade.runners import bento
from slidecascade.runners.bento import BentoRunner

MODEL = "toy-classifier"
IMAGES = {"image": np.zeros((2, 8, 8, 3), np.uint8)}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("models")
    fields = toy_models.classifier_fields(MODEL, 8, crop={"size_px": 8})
    return load_package(toy_models.write_package(folder, fields, toy_models.redness_classifier(8)))


class Service:
    """A service: its calls return `answers` in turn, the last repeatedly; it beats while `beats` is set."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.beats = threading.Event()
        self.beats.set()
        self.wrong: Exception | None = None
        self.calls: list[Tensors] = []
        self.left = threading.Event()
        self.closed = 0

    @property
    def to_async(self) -> Any:
        return self

    def call(self, name: str, **kwargs: Any) -> Any:
        return self.pulse() if name == "pulse" else self.run(**kwargs)

    async def pulse(self) -> AsyncIterator[str]:
        if self.wrong is not None:
            raise self.wrong
        while True:
            if self.beats.is_set():
                yield "."
            await asyncio.sleep(0.01)

    async def run(self, inputs: Tensors) -> Any:
        self.calls.append(inputs)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is Ellipsis:
            try:
                await asyncio.sleep(60)
            finally:
                self.left.set()
        return {"probabilities": np.full((batch_of(inputs), 3), answer, np.float32)}

    async def close(self) -> None:
        self.closed += 1


MakeRunner = Callable[..., BentoRunner]


@pytest.fixture
def runner_of(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRunner]:
    """A runner in front of the service given, whose patience is that of tests."""
    monkeypatch.setattr(bento, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(bento, "HEARTBEAT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(bento, "RESTART_WAIT_S", 0.6)
    made: list[BentoRunner] = []

    def make(service: Service, *, wait: bool = True) -> BentoRunner:
        made.append(BentoRunner([package], {MODEL: service}))
        if wait:
            until(lambda: is_ready(made[-1]))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


def is_ready(runner: BentoRunner) -> bool:
    try:
        runner.check_ready()
    except NotReadyError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def service_error(**fields: object) -> BentoMLException:
    return BentoMLException(json.dumps(fields), error_code=HTTPStatus.SERVICE_UNAVAILABLE)


def test_the_answer_is_the_callers_own(runner_of: MakeRunner) -> None:
    """An array per call, of the type and shape that were promised, that may be written to."""
    output = runner_of(Service(0.5)).run(MODEL, IMAGES)["probabilities"]
    assert (output.shape, output.dtype.name, output.flags.writeable) == ((2, 3), "float32", True)
    assert (output == 0.5).all()


def test_large_calls_are_split_and_none_is_made_for_nothing(
    runner_of: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order is kept; arrays that are not contiguous are sent as if they were."""
    monkeypatch.setattr(bento, "MAX_CALL_BYTES", 3 * 8 * 8 * 3)
    service = Service(0.25)
    runner = runner_of(service)
    images = np.arange(8 * 16 * 8 * 3, dtype=np.uint8).reshape(8, 16, 8, 3)[:, ::2]
    assert runner.run(MODEL, {"image": images})["probabilities"].shape == (8, 3)
    assert [batch_of(call) for call in service.calls] == [3, 3, 2]
    assert np.array_equal(joined(service.calls)["image"], images)
    assert runner.run(MODEL, {"image": images[:0]})["probabilities"].shape == (0, 3)
    assert len(service.calls) == 3


@pytest.mark.parametrize(
    "broken",
    [aiohttp.ServerDisconnectedError(), ConnectionResetError(), TimeoutError(), aiohttp.ClientPayloadError()],
)
def test_a_call_that_breaks_off_is_made_once_more(runner_of: MakeRunner, broken: Exception) -> None:
    """If that fails too, the caller gets Retry-After."""
    service = Service(broken, 1.0)
    runner = runner_of(service)
    assert (runner.run(MODEL, IMAGES)["probabilities"] == 1.0).all()
    assert len(service.calls) == 2
    service.answers = [broken]
    with pytest.raises(NotReadyError, match="'toy-classifier' is not available") as refused:
        runner.run(MODEL, IMAGES)
    assert refused.value.retry_after_s > 0
    assert len(service.calls) == 4


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (service_error(problem="overloaded", detail="Full.", retry_after_s=3), OverloadedError, "Full."),
        (service_error(problem="draining", detail="Bye.", retry_after_s=3), DrainingError, "Bye."),
        (service_error(problem="model-failed", detail="NaN."), ModelFailedError, "NaN."),
        (
            service_error(problem="overloaded", detail="No time is reported."),
            ModelFailedError,
            "failed unexpectedly",
        ),
        (service_error(problem="gold", detail="?"), ModelFailedError, "failed unexpectedly"),
        (BentoMLException("<html>"), ModelFailedError, "failed unexpectedly"),
        (BentoMLException("[]"), ModelFailedError, "failed unexpectedly"),
        (NotFound(""), ModelPackageError, "a model other than"),
    ],
)
def test_errors_of_a_service_are_raised(
    runner_of: MakeRunner, answer: Exception, expected: type[Exception], says: str
) -> None:
    """As the error it is, and without asking again."""
    service = Service(answer)
    with pytest.raises(expected, match=says):
        runner_of(service).run(MODEL, IMAGES)
    assert len(service.calls) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"probabilities": np.zeros((1, 3), np.float32)}, r"'probabilities' as float32 \(1, 3\)"),
        ({"probabilities": np.zeros((2, 3))}, "'probabilities' as float64"),
        ({"logits": np.zeros((2, 3), np.float32)}, "returns logits, its model.yaml states probabilities"),
        ({"probabilities": np.zeros((2, 3), np.float32), "more": np.zeros(2)}, "returns probabilities, more"),
        ({}, "returns nothing"),
        ({"probabilities": [0.0]}, "did not return arrays"),
        (np.zeros((2, 3), np.float32), "did not return arrays"),
    ],
)
def test_an_answer_that_is_not_as_stated_is_refused(runner_of: MakeRunner, answer: object, says: str) -> None:
    """It is never returned as probabilities."""
    service = Service(0.0)
    service.run = lambda inputs: asyncio.sleep(0, answer)  # type: ignore[method-assign]  # a wrong service
    with pytest.raises(ModelFailedError, match=says):
        runner_of(service).run(MODEL, IMAGES)


def test_inputs_the_network_does_not_take_are_not_sent(runner_of: MakeRunner) -> None:
    """Another size, another type, another name: each is refused before a call is made."""
    service = Service(0.5)
    runner = runner_of(service)
    for wrong in (
        {"image": np.zeros((2, 8, 9, 3), np.uint8)},
        {"image": np.zeros((2, 8, 8, 3), np.uint16)},
        {"pixels": np.zeros((2, 8, 8, 3), np.uint8)},
        {},
    ):
        with pytest.raises(ModelFailedError, match="'toy-classifier'"):
            runner.run(MODEL, wrong)
    assert not service.calls


def test_a_caller_is_kept_no_longer_than_it_asked(runner_of: MakeRunner) -> None:
    """After the deadline or a disconnect the call gets its error immediately, and its connection is closed."""
    for control, expected in ((Control(deadline_s=0.1), DeadlineExceededError), (Control(), CancelledError)):
        service = Service(...)
        caller = runner_of(service).on_behalf_of(control)
        timer = threading.Timer(0.1, control.cancel if expected is CancelledError else lambda: None)
        timer.start()
        with pytest.raises(expected):
            caller.run(MODEL, IMAGES)
        timer.join()
        assert service.left.wait(10)


def test_a_service_that_falls_silent_is_given_up(runner_of: MakeRunner) -> None:
    """Its connections stay open and say nothing: calls end, new ones fail at once, and it is found again."""
    service = Service(...)
    runner = runner_of(service)
    threading.Timer(0.1, service.beats.clear).start()
    with pytest.raises(NotReadyError, match="is not available"):
        runner.run(MODEL, IMAGES)
    with pytest.raises(NotReadyError, match="services of toy-classifier are not available"):
        runner.check_ready()
    service.answers = [1.0]
    service.beats.set()
    until(lambda: is_ready(runner))
    assert (runner.run(MODEL, IMAGES)["probabilities"] == 1.0).all()


def test_calls_wait_for_a_service_that_was_just_lost(
    runner_of: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart costs callers time, not their region."""
    monkeypatch.setattr(bento, "RESTART_WAIT_S", 60.0)
    service = Service(1.0)
    service.beats.clear()
    runner = runner_of(service, wait=False)
    threading.Timer(0.2, service.beats.set).start()
    assert (runner.run(MODEL, IMAGES)["probabilities"] == 1.0).all()


def test_another_model_than_the_package_is_not_used(runner_of: MakeRunner) -> None:
    """Its service knows none of our addresses, which hold the sha256."""
    service = Service(1.0)
    service.wrong = NotFound("")
    runner = runner_of(service, wait=False)
    with pytest.raises(ModelPackageError, match="a model other than"):
        until(lambda: is_ready(runner))
    with pytest.raises(ModelPackageError, match="a model other than"):
        runner.run(MODEL, IMAGES)
    assert not service.calls


def test_closing_ends_what_waits(runner_of: MakeRunner) -> None:
    """Callers get `draining`; closing again has no effect; connections are closed once."""
    service = Service(...)
    runner = runner_of(service)
    threading.Timer(0.1, runner.close).start()
    with pytest.raises(DrainingError):
        runner.run(MODEL, IMAGES)
    until(lambda: service.closed == 1)
    runner.close()
    with pytest.raises(DrainingError):
        runner.run(MODEL, IMAGES)
    with pytest.raises(UnknownModelError):
        runner.run("gold", IMAGES)
