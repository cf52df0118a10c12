"""The batcher with real threads: every caller gets the answer to its own images, or the error that is its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    DrainingError,
    ModelFailedError,
    OverloadedError,
)
from slidecascade.models.tensors import Tensors
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.runner import Unobserved, bound
from slidecascade.runners.schedule import Limits, few_sizes

POISON = 255


class Adder:
    """A network that adds up each image; an image that holds `POISON` makes its whole batch fail.

    It has two inputs, of two types and layouts, and two outputs, one for each image and one for each of its rows.
    """

    def __init__(self, *, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.may_run = threading.Event()
        self.may_run.set()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []
        self.closed = 0

    def run(self, model: str, inputs: Tensors) -> Tensors:
        image, offset = inputs["image"], inputs["offset"]
        assert (image.dtype.name, offset.dtype.name) == ("uint16", "float32")
        assert len(image) == len(offset)
        self.entered.set()
        assert self.may_run.wait(10)
        time.sleep(self._seconds)
        self.batches.append([int(each.flat[0]) for each in image])
        if (image == POISON).any():
            raise ModelFailedError("Poison.")
        sums = image.reshape(len(image), -1).sum(1, dtype=np.int64)[:, None]
        return {"sum": sums, "rows": image.sum((2, 3)) + offset}

    def close(self) -> None:
        self.closed += 1

    @property
    def ran(self) -> list[int]:
        return [value for batch in self.batches for value in batch]


@contextmanager
def batcher(runner: Adder, *, workers: int = 1, **limits: Any) -> Iterator[Batcher]:
    made = Batcher([runner] * workers, limits=Limits(**limits))
    try:
        yield made
    finally:
        runner.may_run.set()
        made.close()


@contextmanager
def busy(runner: Adder, made: Batcher) -> Iterator[ThreadPoolExecutor]:
    """While the network is held with an image of its own; the pool is for calls that have to wait."""
    runner.may_run.clear()
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(made.run, "m", images(0))
        assert runner.entered.wait(10)
        try:
            yield pool
        finally:
            runner.may_run.set()
            first.result(10)


def images(*values: int, side: int = 2) -> Tensors:
    """An image of `side` squared for each value, filled with it, and an offset of half of it."""
    return {
        "image": np.stack([np.full((side, side, 3), value, np.uint16) for value in values]),
        "offset": np.array(values, np.float32)[:, None] / 2,
    }


def sums(outputs: Tensors) -> list[int]:
    found: list[int] = outputs["sum"][:, 0].tolist()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.001)


CALLS = st.lists(
    st.tuples(
        st.integers(0, 3),  # the caller
        st.lists(st.integers(1, 100) | st.just(POISON), min_size=1, max_size=9),
        st.sampled_from([2, 3]),  # the side of its images
        st.sampled_from(["stays", "stays", "stays", "leaves", "is late"]),
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=25, deadline=None)
@given(calls=CALLS, batch=st.integers(1, 8), workers=st.integers(1, 2), padded=st.booleans())
def test_each_call_gets_its_own_answer(calls: list[Any], batch: int, workers: int, padded: bool) -> None:
    """Whatever is batched with what: sums are right, only calls with poison fail, cancelled calls get nothing."""
    runner = Adder()
    with (
        batcher(runner, workers=workers, batch_items=batch, padded=padded) as made,
        ThreadPoolExecutor(len(calls)) as pool,
    ):
        stays = {caller: Control() for caller in range(4)}

        def call(caller: int, values: list[int], side: int, fate: str) -> Tensors | type[Exception]:
            control = stays[caller] if fate == "stays" else Control(deadline_s=0 if fate == "is late" else None)
            if fate == "leaves":
                control.cancel()
            try:
                return bound(made, control).run("m", images(*values, side=side))
            except (ModelFailedError, CancelledError, DeadlineExceededError) as error:
                return type(error)

        answers = [pool.submit(call, *one) for one in calls]
        for (_, values, side, fate), future in zip(calls, answers, strict=True):
            answer = future.result(10)
            if fate == "stays" and POISON not in values:
                assert isinstance(answer, Mapping)
                assert sums(answer) == [value * side * side * 3 for value in values]
                assert answer["rows"].tolist() == [[value * side * 3 + value / 2] * side for value in values]
                assert (answer["sum"].dtype.name, answer["rows"].dtype.name) == ("int64", "float64")
            else:
                expected = {"leaves": CancelledError, "is late": DeadlineExceededError, "stays": ModelFailedError}
                assert answer is expected[fate]
    if padded:
        assert {len(done) for done in runner.batches} <= set(few_sizes(batch))


def test_an_image_at_fault_fails_alone() -> None:
    """Of calls run together, those beside it get their answers."""
    runner = Adder()
    with batcher(runner) as made:
        with busy(runner, made) as pool:
            good = [pool.submit(made.run, "m", images(value)) for value in (1, 2, 3)]
            bad = pool.submit(made.run, "m", images(4, POISON))
            more = [pool.submit(made.run, "m", images(value, value)) for value in (5, 6)]
            wait_for(lambda: made._schedule.waiting() == 9)
        assert [sums(future.result(10))[0] for future in good + more] == [12, 24, 36, 60, 72]
        with pytest.raises(ModelFailedError, match="Poison"):
            bad.result(10)
    assert len(runner.batches[1]) == 9  # they were one batch


def test_calls_of_disconnected_clients_are_not_run() -> None:
    """Images whose caller cancels, or whose time is over while they wait, never reach the network."""
    runner = Adder()
    control = Control()
    with batcher(runner) as made:
        with busy(runner, made) as pool:
            left = pool.submit(bound(made, control).run, "m", images(7))
            late = pool.submit(bound(made, Control(deadline_s=0.05)).run, "m", images(8))
            stays = pool.submit(made.run, "m", images(9))
            wait_for(lambda: made._schedule.waiting() == 3)
            control.cancel()
            with pytest.raises(CancelledError):  # reported at once, not when the network is free again
                left.result(5)
            with pytest.raises(DeadlineExceededError):
                late.result(5)
            assert made._schedule.waiting() == 1
        assert sums(stays.result(10)) == [108]
    assert sorted(runner.ran) == [0, 9]


def test_who_leaves_while_the_network_runs_is_let_go() -> None:
    """A run cannot be stopped, but callers need not wait for it."""
    runner = Adder()
    control = Control()
    with batcher(runner) as made, ThreadPoolExecutor(1) as pool:
        runner.may_run.clear()
        running = pool.submit(bound(made, control).run, "m", images(1))
        assert runner.entered.wait(10)
        control.cancel()
        with pytest.raises(CancelledError):
            running.result(5)


def test_what_waits_is_bounded() -> None:
    """More than may wait is overloaded, and says when to try again; it is fine again afterwards."""
    runner = Adder()
    with batcher(runner, queue_items=4) as made:
        with busy(runner, made) as pool:
            waiting = pool.submit(made.run, "m", images(1, 2, 3))
            wait_for(lambda: made._schedule.waiting() == 3)
            with pytest.raises(OverloadedError, match="holds 3 images") as caught:
                made.run("m", images(4, 5))
            assert caught.value.retry_after_s >= 1
        assert len(sums(waiting.result(10))) == 3
        assert sums(made.run("m", images(4, 5))) == [48, 60]


def test_a_flood_does_not_keep_others_waiting() -> None:
    """A caller with one image is in the next batch, whatever another has sent before."""
    runner = Adder()
    flood, other = Control(), Control()
    with batcher(runner, batch_items=4) as made:
        with busy(runner, made) as pool:
            many = [pool.submit(bound(made, flood).run, "m", images(*[value] * 5)) for value in range(1, 9)]
            wait_for(lambda: made._schedule.waiting() == 40)
            one = pool.submit(bound(made, other).run, "m", images(99))
            wait_for(lambda: made._schedule.waiting() == 41)
        one.result(10)
        for future in many:
            future.result(10)
    assert 99 in runner.batches[1] + runner.batches[2]


def test_batches_grow_with_the_load() -> None:
    """One caller alone is run alone; eight at a time share batches."""
    sizes = {}
    for callers in (1, 8):
        runner = Adder(seconds=0.005)
        with batcher(runner) as made, ThreadPoolExecutor(callers) as pool:
            list(pool.map(lambda value, made=made: made.run("m", images(value)), range(25 * callers)))
        sizes[callers] = sum(map(len, runner.batches)) / len(runner.batches)
    assert sizes[1] == 1
    assert sizes[8] > 3


def test_a_caller_alone_loses_less_than_a_millisecond() -> None:
    """What the queue and the threads add to a run, in the best tenth of the calls: others may use the machine."""
    runner = Adder()
    with batcher(runner) as made:
        image = images(1)
        seconds = []
        for _ in range(300):
            started = time.perf_counter()
            made.run("m", image)
            seconds.append(time.perf_counter() - started)
    assert np.percentile(seconds, 10) < 0.001


def test_all_events_are_reported_to_the_observer() -> None:
    """Sizes, waiting times and queues reach the observer under the model's name."""

    class Told(Unobserved):
        def __init__(self) -> None:
            self.sizes: list[int] = []
            self.waits: list[float] = []
            self.queues: list[int] = []

        def ran(self, model: str, *, size: int, seconds: float) -> None:
            self.sizes.append(size)

        def waited(self, model: str, seconds: float) -> None:
            self.waits.append(seconds)

        def queued(self, model: str, items: int) -> None:
            self.queues.append(items)

    runner, reported = Adder(), Told()
    made = Batcher([runner], observer=reported)
    with busy(runner, made) as pool:
        calls = [pool.submit(made.run, "m", images(value, value)) for value in (1, 2, 3)]
        wait_for(lambda: made._schedule.waiting() == 6)
    for call in calls:
        call.result(10)
    made.close()
    assert reported.sizes == [1, 6]
    assert len(reported.waits) == 4
    assert max(reported.queues) == 6
    assert reported.queues[-1] == 0


def test_closing_refuses_what_waits() -> None:
    """Running calls may finish, queued ones get an error, and the runner is closed once."""
    runner = Adder()
    made = Batcher([runner, runner])
    runner.may_run.clear()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(made.run, "m", images(value)) for value in (1, 2, 3)]
        assert runner.entered.wait(10)
        closing = pool.submit(made.close)
        for future in running:
            with pytest.raises(DrainingError):
                future.result(10)
        runner.may_run.set()
        closing.result(10)
    assert runner.closed == 1
    with pytest.raises(DrainingError):
        made.run("m", images(1))


def test_a_network_without_a_batch_axis_is_rejected() -> None:
    """Fewer answers than images is the model's failure, not a wrong answer to somebody."""

    class Single(Adder):
        def run(self, model: str, inputs: Tensors) -> Tensors:
            outputs = super().run(model, inputs)
            return {"sum": outputs["sum"], "rows": outputs["rows"][:1]}

    with batcher(Single()) as made, pytest.raises(ModelFailedError, match="1 rows of 'rows' for 2 images"):
        made.run("m", images(1, 2))


def test_inputs_of_different_batches_are_refused() -> None:
    """Two images with the offset of one cannot be split again, so nothing of it is run."""
    runner = Adder()
    with batcher(runner) as made, pytest.raises(ModelFailedError, match="differ in batch size"):
        made.run("m", {"image": images(1, 2)["image"], "offset": images(1)["offset"]})
    assert not runner.batches


def test_only_inputs_of_one_kind_are_joined() -> None:
    """Images of one shape and type are one batch; those that differ in another input are not."""
    runner = Adder()
    wide = {**images(3), "offset": np.zeros((1, 2), np.float32)}
    with batcher(runner) as made:
        with busy(runner, made) as pool:
            calls = [pool.submit(made.run, "m", inputs) for inputs in (images(1), wide, images(2))]
            wait_for(lambda: made._schedule.waiting() == 3)
        assert [sums(call.result(10)) for call in calls] == [[12], [36], [24]]
    assert sorted(map(sorted, runner.batches)) == [[0], [1, 2], [3]]
