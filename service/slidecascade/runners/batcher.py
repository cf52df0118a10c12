"""Dynamic batching of concurrent calls: worker threads around a `Schedule`."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, DrainingError, ModelFailedError, SlideCascadeError
from slidecascade.models.batches import batch_of, joined, part_of
from slidecascade.models.tensors import Tensors
from slidecascade.runners.pace import padded_size
from slidecascade.runners.runner import CallerView, Runner, RunObserver, Unobserved, trim
from slidecascade.runners.schedule import Batch, Call, InputKind, Key, Limits, Part, Schedule

LOG = logging.getLogger(__name__)
_POLL_S = 0.05
"""Interval at which a waiting thread checks for cancellation."""

_CLOSE_TIMEOUT_S = 10.0
"""How long closing waits for running batches."""


@dataclass(eq=False, kw_only=True)
class _Pending(Call):
    """A call with its inputs, its partial outputs and the event its thread waits for."""

    inputs: Tensors
    control: Control
    outputs: list[tuple[int, Tensors]] = field(default_factory=list)
    answered: int = 0
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def is_active(self, now: float) -> bool:  # noqa: ARG002 - of `Call`: other calls expire
        return not self.control.cancelled and self.control.seconds_left > 0

    def answer(self, start: int, stop: int, outputs: Tensors) -> None:
        """Store `outputs` of images ``start:stop``."""
        if self.done.is_set():
            return
        self.outputs.append((start, outputs))
        self.answered += stop - start
        if self.answered == self.items:
            self.done.set()

    def fail(self, error: Exception) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()

    def result(self) -> Tensors:
        if self.error is not None:
            raise self.error
        return joined(outputs for _, outputs in sorted(self.outputs, key=lambda part: part[0]))


class Batcher:
    """Batches queued calls of the same model with inputs of the same shapes; a `SharedRunner`.

    The order of each caller's images is kept; callers get equal shares. Calls that are cancelled or past their
    deadline are not run. A failed batch is bisected, so that only the call with the failing image fails.

    Args:
        runners: one worker thread each; runners of several devices, or one runner several times.
        limits: bounds of batches and queues.
        observer: receives waiting times, batch sizes and run times.
    """

    def __init__(
        self, runners: Sequence[Runner], *, limits: Limits | None = None, observer: RunObserver | None = None
    ) -> None:
        self._runners = tuple(runners)
        self._limits = limits or Limits()
        self._schedule: Schedule[_Pending] = Schedule(self._limits)
        self._observer = observer or Unobserved()
        self._changed = threading.Condition()
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, args=(runner,), name=f"batch-{number}", daemon=True)
            for number, runner in enumerate(self._runners)
        ]
        for worker in self._workers:
            worker.start()

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """As `Runner.run`, without a deadline; also raises OverloadedError."""
        return self._run(model, inputs, Control())

    def on_behalf_of(self, control: Control) -> Runner:
        return CallerView(self._run, control)

    def trim(self) -> None:
        """See `KeepingRunner`."""
        for runner in dict.fromkeys(self._runners):
            trim(runner)

    def close(self) -> None:
        """Reject queued calls, wait for running batches, close the runners."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        ends_at = time.monotonic() + _CLOSE_TIMEOUT_S
        for worker in self._workers:
            worker.join(max(0.0, ends_at - time.monotonic()))
        for runner in dict.fromkeys(self._runners):
            runner.close()

    def _run(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        if not batch_of(inputs):
            return self._runners[0].run(model, inputs)
        call = self._enqueue(model, inputs, control)
        try:
            while not call.done.wait(min(_POLL_S, max(0.0, control.seconds_left))):
                control.check()
                if self._closed:
                    raise self._closing_error()
        except SlideCascadeError:
            self._dequeue(call)
            raise
        if isinstance(call.error, CancelledError):
            control.check()  # raises CancelledError or DeadlineExceededError
        return call.result()

    def _enqueue(self, model: str, inputs: Tensors, control: Control) -> _Pending:
        control.check()
        now = time.monotonic()
        call = _Pending(
            key=_key(model, inputs),
            caller=control,
            items=batch_of(inputs),
            arrived_at=now,
            ends_at=now + control.seconds_left,
            is_job=control.is_job,
            inputs=inputs,
            control=control,
        )
        with self._changed:
            if self._closed:
                raise self._closing_error()
            self._schedule.add(call)
            self._report_queue(model)
            self._changed.notify()
        return call

    def _dequeue(self, call: _Pending) -> None:
        """Remove the queued images of `call`; running ones are not waited for."""
        with self._changed:
            if self._schedule.remove(call):
                self._report_queue(call.key.model)

    def _work(self, runner: Runner) -> None:
        while (batch := self._next()) is not None:
            self._run_batch(runner, batch)

    def _next(self) -> Batch[_Pending] | None:
        """Wait for the next batch; None when closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                turn = self._schedule.turn(now)
                for call in turn.dropped:
                    call.fail(CancelledError("The request was cancelled while its images were queued."))
                    self._report_queue(call.key.model)
                if turn.batch is not None:
                    self._report_queue(turn.batch.key.model)
                    if self._schedule.waiting():
                        self._changed.notify()  # another worker can take the rest
                    return turn.batch
                self._changed.wait(None if turn.poll_at == math.inf else max(0.0, turn.poll_at - now))
        return None

    def _run_batch(self, runner: Runner, batch: Batch[_Pending]) -> None:
        model, started = batch.key.model, time.monotonic()
        for part in batch.parts:
            self._observer.waited(model, started - part.call.arrived_at)
        if self._try_batch(runner, batch.key, batch.parts):
            seconds = time.monotonic() - started
            with self._changed:
                self._schedule.ran(batch.key, size=batch.size, seconds=seconds, is_job=batch.is_job)
            return
        halves = _halves(batch.parts)
        while halves:
            parts = tuple(part for part in halves.pop() if _is_pending(part.call))
            if parts and not self._try_batch(runner, batch.key, parts):
                halves += _halves(parts)

    def _try_batch(self, runner: Runner, key: Key, parts: Sequence[Part[_Pending]]) -> bool:
        """Run `parts` as one batch and complete their calls; False when it failed and can be split further."""
        count = sum(map(len, parts))
        size = padded_size(count, self._limits.sizes(key.pixels))
        started = time.monotonic()
        try:
            outputs = _run_padded(runner, key.model, parts, size)
        except Exception as error:  # worker boundary: a failing network must not end the worker
            if any(part.call is not parts[0].call for part in parts):
                return False
            if not isinstance(error, SlideCascadeError):
                LOG.exception("model run failed unexpectedly")
            self._fail(parts[0].call, error)
            return True
        finally:
            self._observer.ran(key.model, size=count, seconds=time.monotonic() - started)
        offset = 0
        with self._changed:  # two workers can hold parts of one call
            for part in parts:
                part.call.answer(part.start, part.stop, part_of(outputs, offset, offset + len(part)))
                offset += len(part)
        return True

    def _fail(self, call: _Pending, error: Exception) -> None:
        with self._changed:
            call.fail(error)
            if self._schedule.remove(call):
                self._report_queue(call.key.model)

    def _report_queue(self, model: str) -> None:
        self._observer.queued(model, self._schedule.waiting(model))

    def _closing_error(self) -> DrainingError:
        return DrainingError(
            "The service is shutting down: try again later.", retry_after_s=self._limits.retry_after_s
        )


def _is_pending(call: _Pending) -> bool:
    return not call.done.is_set() and call.is_active(time.monotonic())


def _key(model: str, inputs: Tensors) -> Key:
    kinds = (InputKind(name, array.dtype.str, array.shape[1:]) for name, array in inputs.items())
    return Key(model, tuple(sorted(kinds)))


def _run_padded(runner: Runner, model: str, parts: Sequence[Part[_Pending]], size: int) -> Tensors:
    """The outputs for the images of `parts`, run as a batch padded to `size`."""
    pieces = [part_of(part.call.inputs, part.start, part.stop) for part in parts]
    count = sum(map(len, parts))
    # Padded with copies of a real image, so that padding cannot make the network fail.
    last = len(parts[-1])
    pieces += [part_of(pieces[-1], last - 1, last)] * (size - count)
    outputs = runner.run(model, joined(pieces))
    for name, output in outputs.items():
        if len(output) != size:
            raise ModelFailedError(
                f"Model {model!r} returned {len(output)} rows of {name!r} for {size} images: convert it with a "
                "batch axis."
            )
    return part_of(outputs, 0, count)


def _halves(parts: Sequence[Part[_Pending]]) -> list[tuple[Part[_Pending], ...]]:
    """`parts` split in two; the images of one call stay together because they fail together."""
    middle = len(parts) // 2
    return [tuple(parts[:middle]), tuple(parts[middle:])]
