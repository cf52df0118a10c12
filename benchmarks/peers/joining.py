"""Regions that were put into one batch go through their networks together."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from slidecascade.models.batches import batch_of, joined, part_of
from slidecascade.models.tensors import Shape, Tensors
from slidecascade.runners.runner import Runner

T = TypeVar("T")
R = TypeVar("R")
Kind = tuple[tuple[str, Shape], ...]


@dataclass(slots=True)
class _Call:
    model: str
    inputs: Tensors
    outputs: Tensors | None = None
    error: Exception | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class Joining:
    """A runner for a known number of callers: when all of them wait, what they wait for runs as one batch.

    Tiles of several regions are one call of the segmenter, and their crops one call of a classifier, as a program
    would do that is given a list of regions. Calls for images of different shapes run one after the other.
    """

    def __init__(self, runner: Runner, callers: int) -> None:
        self._runner = runner
        self._callers = callers
        self._waiting: list[_Call] = []
        self._lock = threading.Lock()

    def run(self, model: str, inputs: Tensors) -> Tensors:
        call = _Call(model, inputs)
        with self._lock:
            self._waiting.append(call)
            self._run_if_all_wait()
        call.answered.wait()
        if call.error is not None:
            raise call.error
        assert call.outputs is not None  # noqa: S101 - answered without an error
        return call.outputs

    def close(self) -> None: ...

    def leave(self) -> None:
        """One caller is done: nobody waits for it any more."""
        with self._lock:
            self._callers -= 1
            self._run_if_all_wait()

    def _run_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self._callers:
            return
        calls, self._waiting = self._waiting, []
        groups: dict[tuple[str, Kind], list[_Call]] = defaultdict(list)
        for call in calls:
            kind = tuple((name, array.shape[1:]) for name, array in call.inputs.items())
            groups[call.model, kind].append(call)
        for group in groups.values():
            self._run_group(group)

    def _run_group(self, group: list[_Call]) -> None:
        try:
            outputs = self._runner.run(group[0].model, joined(call.inputs for call in group))
            start = 0
            for call in group:
                stop = start + batch_of(call.inputs)
                part = part_of(outputs, start, stop)
                call.outputs = {
                    name: array.copy() for name, array in part.items()
                }  # callers write into their maps
                start = stop
        except Exception as error:  # noqa: BLE001 - the batch's boundary: every caller gets it
            for call in group:
                call.error = error
        for call in group:
            call.answered.set()


def together(items: Sequence[T], work: Callable[[T, Runner], R], runner: Runner) -> list[R]:
    """`work` on every item, each in a thread, their network calls joined."""
    joining = Joining(runner, len(items))

    def one(item: T) -> R:
        try:
            return work(item, joining)
        finally:
            joining.leave()

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(one, items))
