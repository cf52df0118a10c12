"""The schedule of the batcher: nothing lost, nothing twice, in order, bounded, fair. No threads, no clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.errors import OverloadedError
from slidecascade.runners.schedule import Call, InputKind, Key, Limits, Part, Schedule

KINDS = (
    (InputKind("image", "|u1", (8, 8, 3)),),
    (InputKind("image", "|u1", (16, 8, 3)), InputKind("offset", "<f4", (3,))),
)
MODELS = ("a", "b")


@dataclass
class Line:
    """A schedule and an account of all that went in and came out."""

    schedule: Schedule[Call]
    now: float = 0.0
    added: list[Call] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    parts: list[Part[Call]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, caller: object, *, items: int = 1, model: str = "a", shape: int = 0, lasts: float = 1e9) -> Call:
        call = Call(
            key=Key(model, KINDS[shape]),
            caller=caller,
            items=items,
            arrived_at=self.now,
            ends_at=self.now + lasts,
        )
        self.schedule.add(call)
        self.added.append(call)
        return call

    def waiting_beside(self, caller: object) -> int:
        """Images of all callers but this one."""
        others = [call for call in self.added if call.caller != caller and id(call) not in self.left]
        return sum(call.items - call.taken for call in others)

    def turn(self) -> bool:
        """Take a batch, if there is one; it runs for 10 ms and 1 ms more for each image."""
        turn = self.schedule.turn(self.now)
        for call in turn.dropped:
            assert call.ends_at <= self.now
            self.left.add(id(call))
        if turn.batch is None:
            self.now = min(turn.poll_at, self.now + 1)
            return False
        batch = turn.batch
        assert all(part.call.key == batch.key for part in batch.parts)
        assert all(part.call.ends_at > self.now and id(part.call) not in self.left for part in batch.parts)
        assert 0 < batch.items <= batch.size <= self.schedule.limits.sizes(batch.key.pixels)[-1]
        self.parts += batch.parts
        self.sizes.append(batch.items)
        self.now += 0.01 + 0.001 * batch.size
        self.schedule.ran(batch.key, size=batch.size, seconds=0.01 + 0.001 * batch.size)
        return True

    def empty(self) -> None:
        while self.schedule.waiting():
            self.turn()


def add_within_bound(line: Line, queue: int, step: dict[str, Any]) -> None:
    """A call is refused exactly when others wait and more than `queue` images would."""
    others = line.waiting_beside(step["caller"])
    is_too_much = others > 0 and others + step["items"] > queue
    with pytest.raises(OverloadedError) if is_too_much else nullcontext():
        line.add(**step)


STEPS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                "caller": st.integers(0, 3),
                "items": st.integers(1, 20),
                "model": st.sampled_from(MODELS),
                "shape": st.integers(0, 1),
                "lasts": st.sampled_from([0.005, 0.05, 1e9]),
            }
        ),
        st.just("turn"),
        st.integers(0, 40),
        st.floats(0, 0.05),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS, batch=st.integers(1, 32), queue=st.integers(1, 60), padded=st.booleans())
def test_every_image_is_run_once_or_was_given_up(steps: list[Any], batch: int, queue: int, padded: bool) -> None:
    """Whatever comes and goes: no image is lost or run twice, a caller's keep their order, the bound holds."""
    line = Line(Schedule(Limits(batch_items=batch, queue_items=queue, padded=padded)))
    for step in steps:
        match step:
            case dict():
                add_within_bound(line, queue, step)
            case "turn":
                line.turn()
            case int():
                if step < len(line.added):
                    call = line.added[step]
                    if line.schedule.remove(call):
                        line.left.add(id(call))
                    assert not line.schedule.remove(call)
            case _:
                line.now += step
    line.empty()

    ran: dict[int, list[int]] = defaultdict(list)
    for part in line.parts:
        ran[id(part.call)] += range(part.start, part.stop)
    for call in line.added:
        whole = list(range(call.items))
        assert ran[id(call)] == (whole[: call.taken] if id(call) in line.left else whole)
    for key in {call.key for call in line.added}:
        for caller in range(4):
            mine = [call for call in line.added if (call.key, call.caller) == (key, caller)]
            order = [part.call for part in line.parts if part.call in mine]
            assert order == sorted(order, key=line.added.index)
    assert line.schedule.waiting() == sum(line.schedule.waiting(model) for model in MODELS) == 0


def test_nobody_is_overload_to_himself() -> None:
    """A region whose tiles hold more than may wait is served when it is alone; then another is rejected."""
    line = Line(Schedule(Limits(batch_items=8, queue_items=10)))
    for model in MODELS:
        line.add("region", items=30, model=model)
    with pytest.raises(OverloadedError, match=f"holds {30 * len(MODELS)} images"):
        line.add("other")
    line.empty()
    line.add("other", items=4)
    line.add("region", items=6)
    with pytest.raises(OverloadedError, match="holds 4 images"):
        line.add("region", items=7)
    line.empty()


@settings(deadline=None)
@given(flood=st.integers(1, 300), calls=st.integers(1, 40), items=st.integers(1, 8))
def test_nobody_waits_behind_a_flood(flood: int, calls: int, items: int) -> None:
    """As long as both wait, two callers get the same number of images, to within a batch and a call."""
    line = Line(Schedule(Limits(batch_items=8, queue_items=10_000)))
    for _ in range(flood):
        line.add("flood")
    for _ in range(calls):
        line.add("other", items=items)
    given: Counter[Any] = Counter()
    while line.schedule.waiting():
        seen = len(line.parts)
        line.turn()
        for part in line.parts[seen:]:
            given[part.call.caller] += len(part)
        if given["flood"] < flood and given["other"] < calls * items:
            assert abs(given["flood"] - given["other"]) <= 8 + items


@settings(deadline=None)
@given(flood=st.integers(1, 300))
def test_models_take_turns(flood: int) -> None:
    """A call for one model waits for at most one batch of a flood for another."""
    line = Line(Schedule(Limits(batch_items=8, queue_items=10_000)))
    for _ in range(flood):
        line.add("flood", model="a")
    line.add("other", model="b")
    for _ in range(3):
        line.turn()
    assert any(part.call.caller == "other" for part in line.parts)


def test_a_caller_who_comes_back_does_not_jump_the_line() -> None:
    """Large calls one after another are no way around the other's small ones."""
    line = Line(Schedule(Limits(batch_items=4, queue_items=1000)))
    for _ in range(40):
        line.add("small")
    taken: Counter[Any] = Counter()
    for _ in range(10):
        if not any(call.caller == "large" and call.taken < call.items for call in line.added):
            line.add("large", items=4)
        seen = len(line.parts)
        line.turn()
        for part in line.parts[seen:]:
            taken[part.call.caller] += len(part)
    assert abs(taken["small"] - taken["large"]) <= 8


def test_one_call_larger_than_the_bound_is_served() -> None:
    """It could never be otherwise; it waits alone and goes in pieces."""
    line = Line(Schedule(Limits(batch_items=8, queue_items=10)))
    line.add("a", items=100)
    with pytest.raises(OverloadedError, match="holds 100 images"):
        line.add("b")
    line.empty()
    assert sum(line.sizes) == 100
    assert max(line.sizes) == 8


def test_batches_are_bounded_in_pixels() -> None:
    """Large tiles go in smaller batches, the largest of them one by one."""
    limits = Limits(batch_items=32, batch_px=2**20, padded=True)
    assert limits.sizes(64 * 64) == (1, 8, 32)
    assert limits.sizes(300 * 300) == (1, 8)
    assert limits.sizes(400 * 400) == (1, 6)
    assert limits.sizes(4096 * 4096) == (1,)
    assert Limits(batch_items=3).sizes(64 * 64) == (1, 2, 3)


def test_a_batch_is_bounded_by_the_pixels_of_its_largest_input() -> None:
    """Whichever axis the channels are on, and however many inputs there are."""
    planes, vector = InputKind("image", "<u2", (4, 512, 256)), InputKind("gain", "<f4", (4,))
    assert Key("m", (vector, planes)).pixels == 512 * 256
    assert InputKind("image", "|u1", (512, 256, 8)).pixels == 512 * 256
    assert Key("m", (vector,)).pixels == 4
