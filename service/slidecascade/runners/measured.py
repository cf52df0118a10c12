"""A runner that tells an observer about its runs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidecascade.cancellation import Control
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, bound


class MeasuredRunner:
    """`runner`, observed. Nothing waits here, so the waiting time of every call is 0.

    Closing is left to whoever made `runner` where `owned` is false.
    """

    def __init__(self, runner: Runner, observer: RunObserver, *, owned: bool = True) -> None:
        self._runner = runner
        self._observer = observer
        self._owned = owned

    def run(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        started = time.monotonic()
        try:
            return self._runner.run(model, images)
        finally:
            self._observer.waited(model, 0.0)
            self._observer.ran(model, size=len(images), seconds=time.monotonic() - started)

    def on_behalf_of(self, control: Control) -> Runner:
        return MeasuredRunner(bound(self._runner, control), self._observer, owned=False)

    def check_ready(self) -> None:
        if isinstance(self._runner, RemoteRunner):
            self._runner.check_ready()

    def close(self) -> None:
        if self._owned:
            self._runner.close()
