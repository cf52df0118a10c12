"""Scheduling of calls into batches: queues, fair shares, bounds. Pure: no clock, no threads, no networks."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from slidecascade.errors import OverloadedError
from slidecascade.runners.pace import Pace, batch_size, padded_size
from slidecascade.runners.runner import RETRY_AFTER_S

_MAX_IDLE_QUEUES = 256

JOB_SHARE = 0.25
"""Of the time of the networks, for jobs while people wait."""

SATURATING_BATCH = 8
"""Batch size that saturates a GPU: for tiles of 512 px, 8 run 1.7 times as fast as single tiles, 32 1.8 times."""


@dataclass(frozen=True, slots=True, order=True)
class InputKind:
    """Name, dtype and shape without the batch axis of one input; equal for calls that are batched together."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Height times width of one image: its two largest axes, since no image has fewer rows than channels."""
        return math.prod(sorted(self.shape)[-2:])


@dataclass(frozen=True, slots=True)
class Key:
    """Calls with equal keys can be batched: one model, and the kind of each input, sorted by name."""

    model: str
    inputs: tuple[InputKind, ...]

    @property
    def pixels(self) -> int:
        """Pixels of one image of the largest input."""
        return max((kind.pixels for kind in self.inputs), default=1)


@dataclass(eq=False, kw_only=True)
class Call:
    """A call with `items` images, of which the first `taken` are already in batches.

    `ends_at` is the deadline; times are seconds on one monotonic clock. `is_job`: nobody waits for it.
    """

    key: Key
    caller: Hashable
    items: int
    arrived_at: float
    ends_at: float = math.inf
    is_job: bool = False
    taken: int = 0

    def is_active(self, now: float) -> bool:
        """Whether the call is neither cancelled nor past its deadline."""
        return now < self.ends_at


CallT = TypeVar("CallT", bound=Call)


@dataclass(frozen=True, slots=True)
class Part(Generic[CallT]):
    """Images ``start:stop`` of a call."""

    call: CallT
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Batch(Generic[CallT]):
    """Parts to be run together, padded to `size` images."""

    key: Key
    parts: tuple[Part[CallT], ...]
    size: int
    is_job: bool = False

    @property
    def items(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Turn(Generic[CallT]):
    """The next action: run `batch`, or poll again at `poll_at` or when a call arrives.

    `dropped` are cancelled or late calls, which were removed from the queue.
    """

    batch: Batch[CallT] | None
    dropped: tuple[CallT, ...]
    poll_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of batches and queues.

    Args:
        batch_items: maximum images in a batch.
        batch_px: maximum pixels in a batch of more than one image.
        queue_items: maximum queued images, over all models, when another caller's call arrives. A caller's own
            images do not count, so that a region cannot overload the queue by itself.
        retry_after_s: retry delay in seconds, reported when the queue is full.
        padded: whether batches are padded to a few sizes, for devices that plan for every shape.
    """

    batch_items: int = 32
    batch_px: int = 2**24
    queue_items: int = 8192
    retry_after_s: int = RETRY_AFTER_S
    padded: bool = False

    def sizes(self, image_px: int) -> tuple[int, ...]:
        """Allowed batch sizes for images of `image_px` pixels: a few when padded, else all up to the maximum."""
        most = max(1, min(self.batch_items, self.batch_px // max(1, image_px)))
        return few_sizes(most) if self.padded else tuple(range(1, most + 1))


def few_sizes(most: int) -> tuple[int, ...]:
    """Batch sizes up to `most` (at least 1), ascending; few, because a GPU plans and allocates for each size."""
    return tuple(sorted({1, min(SATURATING_BATCH, most), most if most >= 2 * SATURATING_BATCH else 1}))


class _Queue(Generic[CallT]):
    """Calls with one key: fair between callers by images, first in first out within a caller.

    Start-time fair queueing (Goyal, Vin and Cheng 1996): the caller with the least service is next; a caller that
    returns starts at the current virtual time, or at its own if that is later.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.pace = Pace()
        self.items = 0
        self._callers: dict[Hashable, deque[CallT]] = {}
        self._served: dict[Hashable, int] = {}
        self._virtual_time = 0

    def __iter__(self) -> Iterator[CallT]:
        return (call for calls in self._callers.values() for call in calls)

    def add(self, call: CallT) -> None:
        if call.caller not in self._callers:
            self._callers[call.caller] = deque()
            self._served[call.caller] = max(self._virtual_time, self._served.get(call.caller, 0))
        self._callers[call.caller].append(call)
        self.items += call.items

    def remove(self, call: CallT) -> int:
        """Remove `call`; how many of its images were still queued."""
        calls = self._callers.get(call.caller, ())
        if call not in calls:
            return 0
        self._callers[call.caller].remove(call)
        removed = call.items - call.taken
        self._removed(call.caller, removed)
        return removed

    def waiting(self, caller: Hashable) -> int:
        """Queued images of `caller`."""
        return sum(call.items - call.taken for call in self._callers.get(caller, ()))

    def inactive(self, now: float) -> tuple[CallT, ...]:
        return tuple(call for call in self if not call.is_active(now))

    def take(self, count: int) -> tuple[Part[CallT], ...]:
        """The next `count` images."""
        parts: list[Part[CallT]] = []
        while count:
            caller = min(self._callers, key=self._served.__getitem__)
            calls = self._callers[caller]
            call = calls[0]
            part = Part(call, call.taken, min(call.items, call.taken + count))
            call.taken = part.stop
            if call.taken == call.items:
                calls.popleft()
            parts.append(part)
            count -= len(part)
            self._virtual_time = self._served[caller]
            self._served[caller] += len(part)
            self._removed(caller, len(part))
        return tuple(parts)

    def _removed(self, caller: Hashable, items: int) -> None:
        self.items -= items
        if not self._callers[caller]:
            del self._callers[caller]
            # Kept while it matters: a caller must not gain priority by leaving the queue.
            self._served = {
                known: served
                for known, served in self._served.items()
                if known in self._callers or (self._callers and served > self._virtual_time)
            }


@dataclass(frozen=True, slots=True)
class _Lane:
    """What a queue is of."""

    key: Key
    is_job: bool


@dataclass(slots=True)
class Schedule(Generic[CallT]):
    """All queues, served round robin; callers within a queue are served fairly.

    Calls of people and of jobs have queues of their own. Those of people go first; while they do, jobs that wait
    save up `JOB_SHARE` of the time, and a batch of theirs goes first once its run is paid for.
    """

    limits: Limits
    _queues: dict[_Lane, _Queue[CallT]] = field(default_factory=dict)
    _active: OrderedDict[_Lane, _Queue[CallT]] = field(default_factory=OrderedDict)
    _saved_s: float = 0.0
    _waiting: Counter[str] = field(default_factory=Counter)

    def waiting(self, model: str | None = None) -> int:
        """Queued images, of `model` or of all models."""
        return self._waiting.total() if model is None else self._waiting[model]

    def add(self, call: CallT) -> None:
        """Enqueue `call`.

        Raises:
            OverloadedError: when it would exceed `queue_items` while other callers' images are queued.
        """
        others = sum(
            queue.items - queue.waiting(call.caller)
            for lane, queue in self._active.items()
            if call.is_job or not lane.is_job
        )
        if others and others + call.items > self.limits.queue_items:
            raise OverloadedError(
                f"The queue of the networks holds {others} images and has no room for {call.items} more: try "
                "again later.",
                retry_after_s=self.limits.retry_after_s,
            )
        lane = _Lane(call.key, call.is_job)
        queue = self._active.setdefault(lane, self._queue(lane))
        queue.pace.arrived(call.arrived_at, call.items)
        queue.add(call)
        self._waiting[call.key.model] += call.items

    def remove(self, call: CallT) -> bool:
        """Remove `call` from its queue; whether any of its images were still queued."""
        lane = _Lane(call.key, call.is_job)
        removed = self._active[lane].remove(call) if lane in self._active else 0
        self._removed(lane, removed)
        return removed > 0

    def turn(self, now: float) -> Turn[CallT]:
        """The next action, for the first queue that is due."""
        dropped = tuple(call for queue in self._active.values() for call in queue.inactive(now))
        for call in dropped:
            self.remove(call)
        due_at = {lane: _due_at(queue, now) for lane, queue in self._active.items()}
        due = [lane for lane, at in due_at.items() if at <= now]
        if not due:
            return Turn(None, dropped, min(due_at.values(), default=math.inf))
        lane = self._first(due)
        self._active.move_to_end(lane)
        return Turn(self._batch(lane, self._active[lane]), dropped)

    def ran(self, key: Key, *, size: int, seconds: float, is_job: bool = False) -> None:
        """Record that a batch of `size` images took `seconds`."""
        lane = _Lane(key, is_job)
        if lane in self._queues:
            self._queues[lane].pace.times.observe(size, seconds)
        if is_job:
            self._saved_s = max(0.0, self._saved_s - seconds)
        elif any(active.is_job for active in self._active):
            self._saved_s += seconds * JOB_SHARE / (1 - JOB_SHARE)

    def _first(self, due: list[_Lane]) -> _Lane:
        """The queue to serve, of those that are `due`: people's, unless the run of a job's is paid for."""
        people = next((lane for lane in due if not lane.is_job), None)
        job = next((lane for lane in due if lane.is_job), None)
        if people is None or job is None:
            return due[0]
        queue = self._active[job]
        size = padded_size(batch_size(queue.items, queue.sizes, queue.pace.times), queue.sizes)
        return job if self._saved_s > 0 and self._saved_s >= queue.pace.times.estimate(size) else people

    def _batch(self, lane: _Lane, queue: _Queue[CallT]) -> Batch[CallT]:
        count = batch_size(queue.items, queue.sizes, queue.pace.times)
        parts = queue.take(count)
        self._removed(lane, count)
        return Batch(lane.key, parts, padded_size(count, queue.sizes), lane.is_job)

    def _removed(self, lane: _Lane, items: int) -> None:
        self._waiting[lane.key.model] -= items
        if lane in self._active and not self._active[lane].items:
            del self._active[lane]

    def _queue(self, lane: _Lane) -> _Queue[CallT]:
        """The queue of `lane`. The number of idle queues is bounded, because edge tiles have arbitrary shapes."""
        if lane not in self._queues:
            for idle in [known for known in self._queues if known not in self._active][:-_MAX_IDLE_QUEUES]:
                del self._queues[idle]
            self._queues[lane] = _Queue(self.limits.sizes(lane.key.pixels))
        return self._queues[lane]


def _due_at(queue: _Queue[CallT], now: float) -> float:
    """When to run the next batch of `queue`."""
    if queue.items >= queue.sizes[-1]:
        return now
    calls = tuple(queue)
    latest = min(call.ends_at for call in calls)
    return queue.pace.wait_until(now, calls=len(calls), items=queue.items, latest=latest)
