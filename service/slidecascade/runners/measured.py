"""A runner that reports its runs to an observer."""

from __future__ import annotations

import time

from slidecascade.cancellation import Control
from slidecascade.models.batches import batch_of
from slidecascade.models.tensors import Tensors
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, bound, trim


class MeasuredRunner:
    """Reports the runs of `runner` to `observer`. There is no queue, so the waiting time of every call is 0.

    `owned`: whether closing this runner closes `runner`.
    """

    def __init__(self, runner: Runner, observer: RunObserver, *, owned: bool = True) -> None:
        self._runner = runner
        self._observer = observer
        self._owned = owned

    def run(self, model: str, inputs: Tensors) -> Tensors:
        size, started = batch_of(inputs), time.monotonic()
        try:
            return self._runner.run(model, inputs)
        finally:
            self._observer.waited(model, 0.0)
            self._observer.ran(model, size=size, seconds=time.monotonic() - started)

    def on_behalf_of(self, control: Control) -> Runner:
        return MeasuredRunner(bound(self._runner, control), self._observer, owned=False)

    def check_ready(self) -> None:
        if isinstance(self._runner, RemoteRunner):
            self._runner.check_ready()

    def trim(self) -> None:
        trim(self._runner)

    def close(self) -> None:
        if self._owned:
            self._runner.close()
