"""Waiting only while it pays, in a simulated world whose network takes ``a + b * n`` seconds."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from slidecascade.runners.pace import Pace, RunTimes, batch_size
from slidecascade.runners.schedule import Call, InputKind, Key, Limits, Schedule

KEY = Key("model", (InputKind("image", "|u1", (64, 64, 3)),))


@dataclass
class World:
    """One device, callers who each wait for their answer and come again after `think` seconds."""

    fixed_s: float
    per_item_s: float
    padded: bool = False
    latencies: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def run(self, callers: int, *, answers: int, think: Callable[[], float], items: int = 1) -> None:
        schedule: Schedule[Call] = Schedule(Limits(padded=self.padded))
        coming = [(think(), caller) for caller in range(callers)]
        heapq.heapify(coming)
        now = 0.0
        while len(self.latencies) < answers:
            while coming and coming[0][0] <= now:
                at, caller = heapq.heappop(coming)
                schedule.add(Call(key=KEY, caller=caller, items=items, arrived_at=at))
            turn = schedule.turn(now)
            if turn.batch is None:
                now = min(turn.poll_at, coming[0][0] if coming else turn.poll_at)
                continue
            seconds = self.fixed_s + self.per_item_s * turn.batch.size
            # Those who come while it runs are in line when it ends, at the time they came.
            now += seconds
            while coming and coming[0][0] <= now:
                at, caller = heapq.heappop(coming)
                schedule.add(Call(key=KEY, caller=caller, items=items, arrived_at=at))
            schedule.ran(KEY, size=turn.batch.size, seconds=seconds)
            self.sizes.append(turn.batch.items)
            for part in turn.batch.parts:
                if part.stop == part.call.items:
                    self.latencies.append(now - part.call.arrived_at)
                    heapq.heappush(coming, (now + think(), int(str(part.call.caller))))

    @property
    def settled_size(self) -> float:
        last = self.sizes[len(self.sizes) // 2 :]
        return sum(last) / len(last)

    @property
    def settled_latency(self) -> float:
        last = self.latencies[len(self.latencies) // 2 :]
        return sum(last) / len(last)


def soon(seed: int = 1) -> Callable[[], float]:
    """Callers that call again after 0.1 to 0.3 ms."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    return lambda: chance.uniform(1e-4, 3e-4)


def test_one_caller_alone_never_waits() -> None:
    """Each answer takes the network's own time, to the last microsecond."""
    world = World(fixed_s=0.010, per_item_s=0.0002)
    world.run(1, answers=200, think=soon())
    assert max(world.latencies) == pytest.approx(0.0102)


@pytest.mark.parametrize("callers", [2, 3, 8, 16])
def test_batches_grow_to_the_number_of_callers(callers: int) -> None:
    """Where a batch costs little more than one image, all callers end up in one batch."""
    world = World(fixed_s=0.010, per_item_s=0.0002)
    world.run(callers, answers=120 * callers, think=soon())
    assert world.settled_size >= 0.7 * callers


def test_the_batch_size_follows_the_load() -> None:
    """More callers, larger batches; never more than there are."""
    found = []
    for callers in (1, 4, 12):
        world = World(fixed_s=0.010, per_item_s=0.0002, padded=True)
        world.run(callers, answers=100 * callers, think=soon())
        found.append(world.settled_size)
    assert found[0] == 1
    assert found[0] < found[1] < found[2] <= 12


@pytest.mark.parametrize("callers", [1, 2, 8])
def test_calls_do_not_wait_when_batches_gain_nothing(callers: int) -> None:
    """A network whose time grows with its images, as on a CPU: as fast as without any waiting, within 5 %."""
    world = World(fixed_s=0.0, per_item_s=0.040)
    world.run(callers, answers=60 * callers, think=soon())
    assert world.settled_latency <= 0.040 * callers * 1.05 + 3e-4


def test_rare_callers_are_not_kept_waiting() -> None:
    """Eight callers with a call per second each are almost always served separately and immediately."""
    chance = random.Random(7)  # noqa: S311 - a simulation
    world = World(fixed_s=0.010, per_item_s=0.0002)
    world.run(8, answers=800, think=lambda: chance.expovariate(1.0))
    assert world.settled_latency <= 0.0112


def test_a_caller_left_alone_is_soon_served_at_once() -> None:
    """What was learned from a crowd is forgotten after a few calls."""
    pace = Pace()
    pace.times.observe(1, 0.010)
    pace.times.observe(8, 0.011)
    now = 0.0
    for _ in range(20):  # a second call has always come 0.2 ms after the first
        assert pace.wait_until(now, calls=1, items=1) <= now + 0.005
        pace.arrived(now + 0.0002, 1)
        now += 1.0
    waits = []
    for _ in range(10):
        until = pace.wait_until(now, calls=1, items=1)
        waits.append(until - now)
        now = until + 0.010
        pace.arrived(now, 1)
    assert 0 < waits[0] < 0.001
    assert waits[4:] == [0] * 6
    assert sum(waits) < 0.015


def test_a_deadline_is_not_waited_past() -> None:
    """A call with a short deadline does not wait for others."""
    pace = Pace()
    pace.times.observe(1, 0.010)
    pace.times.observe(8, 0.011)
    pace.wait_until(0.0, calls=1, items=1)
    pace.arrived(0.002, 1)
    assert pace.wait_until(1.0, calls=1, items=1, latest=2.0) > 1.0
    assert pace.wait_until(1.0, calls=1, items=1, latest=1.015) == 1.0


def test_a_run_is_split_where_padding_costs_more() -> None:
    """Five images run as eight when a run is nearly all overhead, as four and one when it is all work."""
    sizes = (1, 2, 4, 8)
    overhead, work = RunTimes(), RunTimes()
    for size in sizes:
        overhead.observe(size, 0.010 + 0.0001 * size)
        work.observe(size, 0.010 * size)
    assert batch_size(5, sizes, overhead) == 5
    assert batch_size(5, sizes, work) == 4
    assert batch_size(9, sizes, work) == 8
    assert batch_size(4, sizes, work) == 4
    assert batch_size(3, (1, 2, 3, 4), work) == 3


def test_a_slow_first_run_is_forgotten() -> None:
    """A first run that compiles says nothing about the next."""
    times = RunTimes()
    times.observe(1, 5.0)
    times.observe(1, 0.010)
    times.observe(8, 0.024)
    assert times.estimate(1) == 0.010
    assert times.fixed_s == pytest.approx(0.008)
    assert times.estimate(16) == pytest.approx(0.040)
