"""The interface of all runners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from slidecascade.cancellation import Control
from slidecascade.models.tensors import Tensors

RETRY_AFTER_S = 2
"""Default retry delay in seconds, for runners created without the service's settings."""


class Runner(Protocol):
    """Runs networks by name. Thread-safe."""

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """The outputs of the network `model` by name, for `inputs` by name.

        Dtypes and shapes are those of the model's `Signature`; the first axis of every array is the batch.

        Raises:
            ModelFailedError: when `inputs` do not match the signature, the run failed, or an output is NaN or
                infinite.
        """
        ...

    def close(self) -> None:
        """Release sessions and connections."""
        ...


@runtime_checkable
class SharedRunner(Runner, Protocol):
    """A runner that schedules fairly between callers and drops cancelled calls."""

    def on_behalf_of(self, control: Control) -> Runner:
        """A view of this runner for one caller; it needs no closing.

        Its `run` also raises what ``control.check()`` raises, and OverloadedError when the queue is full.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallerView:
    """A runner bound to one caller: calls `run_for` with the caller's `control`."""

    run_for: Callable[[str, Tensors, Control], Tensors]
    control: Control

    def run(self, model: str, inputs: Tensors) -> Tensors:
        return self.run_for(model, inputs, self.control)

    def close(self) -> None:
        """Does nothing: the runner itself is closed by its owner."""


def bound(runner: Runner, control: Control) -> Runner:
    """`runner` bound to `control` if it is a `SharedRunner`, else `runner` itself."""
    return runner.on_behalf_of(control) if isinstance(runner, SharedRunner) else runner


@runtime_checkable
class KeepingRunner(Runner, Protocol):
    """A runner that keeps memory for its next runs."""

    def trim(self) -> None:
        """Give back the memory that no run is using; the next run of a network takes a little longer."""
        ...


def trim(runner: Runner) -> None:
    """`trim` of a `KeepingRunner`; nothing of others."""
    if isinstance(runner, KeepingRunner):
        runner.trim()


@runtime_checkable
class RemoteRunner(Runner, Protocol):
    """A runner whose networks run in other processes or on other machines, which may be unavailable."""

    def check_ready(self) -> None:
        """Check that all networks can be run now; blocks.

        Raises:
            NotReadyError: when a network is unavailable.
            ModelPackageError: when a remote model differs from its package.
        """
        ...


class RunObserver(Protocol):
    """Receives events of network runs; called from worker threads."""

    def ran(self, model: str, *, size: int, seconds: float) -> None:
        """`model` ran once on `size` images and took `seconds`."""

    def waited(self, model: str, seconds: float) -> None:
        """The images of one call waited `seconds` for their run."""

    def queued(self, model: str, items: int) -> None:
        """`items` images are queued for `model` now."""


class Unobserved:
    """A run observer that discards all events."""

    def ran(self, model: str, *, size: int, seconds: float) -> None: ...

    def waited(self, model: str, seconds: float) -> None: ...

    def queued(self, model: str, items: int) -> None: ...
