"""Who is served next: queues of calls, fair shares, bounds. A pure object: no clock, no threads, no networks."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from slidecascade.errors import OverloadedError
from slidecascade.runners.pace import Pace, batch_size, padded_size
from slidecascade.runners.runner import RETRY_AFTER_S

_MOST_IDLE = 256

FULL = 8
"""So many tiles keep a GPU busy: of 512 px, eight at once run 1.7 times as fast as one by one, 32 1.8 times."""


@dataclass(frozen=True, slots=True, order=True)
class InputKind:
    """What must be equal of one input of calls that are joined: its name, element type and shape but the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Height times width of one image, whichever axes those are: no image has fewer rows than channels."""
        return math.prod(sorted(self.shape)[-2:])


@dataclass(frozen=True, slots=True)
class Key:
    """What may be run together: one model, and inputs of one kind each, sorted by name."""

    model: str
    inputs: tuple[InputKind, ...]

    @property
    def pixels(self) -> int:
        """Pixels of one image of the largest input."""
        return max((kind.pixels for kind in self.inputs), default=1)


@dataclass(eq=False, kw_only=True)
class Call:
    """`items` images that one caller wants run; the first `taken` of them are in batches already.

    `ends_at` is when the caller must have the answer; times are seconds on one monotonic clock.
    """

    key: Key
    caller: Hashable
    items: int
    arrived_at: float
    ends_at: float = math.inf
    taken: int = 0

    def is_wanted(self, now: float) -> bool:
        """Whether somebody still waits for the answer."""
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

    @property
    def items(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Turn(Generic[CallT]):
    """What to do now: run `batch`, or ask again at `ask_at` or when a call comes in.

    `dropped` are calls nobody waits for any more; they are out of the queue and will not be run.
    """

    batch: Batch[CallT] | None
    dropped: tuple[CallT, ...]
    ask_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of batches and queues.

    Args:
        batch_items: most images in a batch.
        batch_px: most pixels in a batch of more than one image.
        queue_items: most images that wait, over all models, when another caller comes. A caller's own do not
            count: a region must not be overload to itself, whatever its tiles hold.
        retry_after_s: what a call that finds the line full is told to wait, in seconds.
        padded: whether batches are padded to a few sizes, for devices that plan anew for every shape.
    """

    batch_items: int = 32
    batch_px: int = 2**24
    queue_items: int = 8192
    retry_after_s: int = RETRY_AFTER_S
    padded: bool = False

    def sizes(self, image_px: int) -> tuple[int, ...]:
        """The sizes of batches of images of so many pixels: a few when padded, else any up to the last."""
        most = max(1, min(self.batch_items, self.batch_px // max(1, image_px)))
        return few_sizes(most) if self.padded else tuple(range(1, most + 1))


def few_sizes(most: int) -> tuple[int, ...]:
    """Ascending, up to `most`, which is at least 1: a GPU plans anew, and keeps memory, for each it is shown."""
    return tuple(sorted({1, min(FULL, most), most if most >= 2 * FULL else 1}))


class _Queue(Generic[CallT]):
    """Calls that may be run together: fair between callers by images, first come first served within each.

    Start-time fair queueing (Goyal, Vin and Cheng 1996): the caller who has been given least is next, and one
    who comes back begins where the line is now, or where it had got to itself.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.pace = Pace()
        self.items = 0
        self._callers: dict[Hashable, deque[CallT]] = {}
        self._given: dict[Hashable, int] = {}
        self._line = 0

    def __iter__(self) -> Iterator[CallT]:
        return (call for calls in self._callers.values() for call in calls)

    def add(self, call: CallT) -> None:
        if call.caller not in self._callers:
            self._callers[call.caller] = deque()
            self._given[call.caller] = max(self._line, self._given.get(call.caller, 0))
        self._callers[call.caller].append(call)
        self.items += call.items

    def remove(self, call: CallT) -> int:
        """Take `call` out; how many of its images were still here."""
        calls = self._callers.get(call.caller, ())
        if call not in calls:
            return 0
        self._callers[call.caller].remove(call)
        left = call.items - call.taken
        self._gone(call.caller, left)
        return left

    def waiting(self, caller: Hashable) -> int:
        """Images of `caller`."""
        return sum(call.items - call.taken for call in self._callers.get(caller, ()))

    def unwanted(self, now: float) -> tuple[CallT, ...]:
        return tuple(call for call in self if not call.is_wanted(now))

    def take(self, count: int) -> tuple[Part[CallT], ...]:
        """The next `count` images."""
        parts: list[Part[CallT]] = []
        while count:
            caller = min(self._callers, key=self._given.__getitem__)
            calls = self._callers[caller]
            call = calls[0]
            part = Part(call, call.taken, min(call.items, call.taken + count))
            call.taken = part.stop
            if call.taken == call.items:
                calls.popleft()
            parts.append(part)
            count -= len(part)
            self._line = self._given[caller]
            self._given[caller] += len(part)
            self._gone(caller, len(part))
        return tuple(parts)

    def _gone(self, caller: Hashable, items: int) -> None:
        self.items -= items
        if not self._callers[caller]:
            del self._callers[caller]
            # Kept while it matters: a caller must not jump the line by leaving it.
            self._given = {
                known: given
                for known, given in self._given.items()
                if known in self._callers or (self._callers and given > self._line)
            }


@dataclass(slots=True)
class Schedule(Generic[CallT]):
    """All queues. Queues take turns, and so do callers within each: nobody waits behind a flood of others."""

    limits: Limits
    _queues: dict[Key, _Queue[CallT]] = field(default_factory=dict)
    _line: OrderedDict[Key, _Queue[CallT]] = field(default_factory=OrderedDict)
    _waiting: Counter[str] = field(default_factory=Counter)

    def waiting(self, model: str | None = None) -> int:
        """Images that wait, for `model` or for all."""
        return self._waiting.total() if model is None else self._waiting[model]

    def add(self, call: CallT) -> None:
        """Put `call` in line.

        Raises:
            OverloadedError: when others wait, and that would be more than may.
        """
        others = self.waiting() - sum(queue.waiting(call.caller) for queue in self._line.values())
        if others and others + call.items > self.limits.queue_items:
            raise OverloadedError(
                f"{others} images wait for the networks, too many to let {call.items} more in line: try "
                "again later.",
                retry_after_s=self.limits.retry_after_s,
            )
        queue = self._line.setdefault(call.key, self._queue(call.key))
        queue.pace.arrived(call.arrived_at, call.items)
        queue.add(call)
        self._waiting[call.key.model] += call.items

    def remove(self, call: CallT) -> bool:
        """Take `call` out of line; whether any of it was still there."""
        left = self._line[call.key].remove(call) if call.key in self._line else 0
        self._gone(call.key, left)
        return left > 0

    def turn(self, now: float) -> Turn[CallT]:
        """What to do for the queue whose turn it is and that need not wait any longer."""
        dropped = tuple(call for queue in self._line.values() for call in queue.unwanted(now))
        for call in dropped:
            self.remove(call)
        ask_at = math.inf
        for key, queue in self._line.items():
            until = _until(queue, now)
            if until <= now:
                self._line.move_to_end(key)
                return Turn(self._batch(key, queue), dropped)
            ask_at = min(ask_at, until)
        return Turn(None, dropped, ask_at)

    def ran(self, key: Key, *, size: int, seconds: float) -> None:
        """A batch of `size` images took `seconds`."""
        if key in self._queues:
            self._queues[key].pace.times.observe(size, seconds)

    def _batch(self, key: Key, queue: _Queue[CallT]) -> Batch[CallT]:
        count = batch_size(queue.items, queue.sizes, queue.pace.times)
        parts = queue.take(count)
        self._gone(key, count)
        return Batch(key, parts, padded_size(count, queue.sizes))

    def _gone(self, key: Key, items: int) -> None:
        self._waiting[key.model] -= items
        if key in self._line and not self._line[key].items:
            del self._line[key]

    def _queue(self, key: Key) -> _Queue[CallT]:
        """The queue of `key`. Of idle ones a bounded number is kept: tiles at a region's edge have any shape."""
        if key not in self._queues:
            for idle in [known for known in self._queues if known not in self._line][:-_MOST_IDLE]:
                del self._queues[idle]
            self._queues[key] = _Queue(self.limits.sizes(key.pixels))
        return self._queues[key]


def _until(queue: _Queue[CallT], now: float) -> float:
    """When to run what waits in `queue`."""
    if queue.items >= queue.sizes[-1]:
        return now
    calls = tuple(queue)
    latest = min(call.ends_at for call in calls)
    return queue.pace.wait_until(now, calls=len(calls), items=queue.items, latest=latest)
