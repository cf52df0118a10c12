"""What every runner does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from slidecascade.cancellation import Control
from slidecascade.models.tensors import Tensors

RETRY_AFTER_S = 2
"""When callers who cannot be served are to come back, where a runner is made without the service's settings."""


class Runner(Protocol):
    """Runs networks by name; usable from many threads at once."""

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """The outputs of the network `model` by name, for `inputs` by name.

        Types and shapes of both are those of the model's `Signature`; the first axis of every array is the batch.

        Raises:
            ModelFailedError: when the network does not take `inputs`, raised, or returned values that are not
                finite.
        """
        ...

    def close(self) -> None:
        """Release sessions and connections."""
        ...


@runtime_checkable
class SharedRunner(Runner, Protocol):
    """A runner that weighs its callers against each other and stops working for those who have left."""

    def on_behalf_of(self, control: Control) -> Runner:
        """A view of this runner for one caller; it needs no closing.

        Its `run` also raises what ``control.check()`` raises, and OverloadedError when too much is waiting.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallerView:
    """A runner as one caller sees it: `run_for` is its `run` with the caller's `control`."""

    run_for: Callable[[str, Tensors, Control], Tensors]
    control: Control

    def run(self, model: str, inputs: Tensors) -> Tensors:
        return self.run_for(model, inputs, self.control)

    def close(self) -> None:
        """Nothing: what there is to close is the runner's."""


def bound(runner: Runner, control: Control) -> Runner:
    """`runner` for the caller of `control`, where it tells callers apart; else `runner` itself."""
    return runner.on_behalf_of(control) if isinstance(runner, SharedRunner) else runner


@runtime_checkable
class RemoteRunner(Runner, Protocol):
    """A runner whose networks are somewhere else, where they may come and go."""

    def check_ready(self) -> None:
        """Ask whether all networks can be run now; blocks.

        Raises:
            NotReadyError: when one cannot.
            ModelPackageError: when what is there is another model than its package.
        """
        ...


class RunObserver(Protocol):
    """Told what networks are given to do; called from worker threads."""

    def ran(self, model: str, *, size: int, seconds: float) -> None:
        """`model` ran once on `size` images and took `seconds`."""

    def waited(self, model: str, seconds: float) -> None:
        """Images waited `seconds` for their turn."""

    def queued(self, model: str, items: int) -> None:
        """`items` images wait for `model` now."""


class Unobserved:
    """A run observer that keeps nothing."""

    def ran(self, model: str, *, size: int, seconds: float) -> None: ...

    def waited(self, model: str, seconds: float) -> None: ...

    def queued(self, model: str, items: int) -> None: ...
