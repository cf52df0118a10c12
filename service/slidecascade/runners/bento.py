"""Client of the BentoML services of models, one process per model. The only module that imports aiohttp.

The proxies of `bentoml.depends` are asynchronous and tiles are processed in threads. Calls are made on a separate
event loop in its own thread, so that the loop that serves requests copies no pixels.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import aiohttp
import numpy as np
from bentoml.exceptions import BentoMLException, NotFound

from slidecascade.cancellation import Control
from slidecascade.errors import (
    DrainingError,
    ModelFailedError,
    ModelPackageError,
    NotReadyError,
    OverloadedError,
    SlideCascadeError,
    UnknownModelError,
)
from slidecascade.models.batches import batch_of, image_bytes, part_of
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.runner import RETRY_AFTER_S, CallerView, Runner
from slidecascade.runners.server_metadata import Spec

LOG = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""Interval between heartbeats of a service."""

HEARTBEAT_TIMEOUT_S = 10.0
"""Without a heartbeat for this long a service counts as lost."""

RESTART_WAIT_S = 20.0
"""How long calls wait for a lost service to restart: BentoML's supervisor takes ten seconds to notice."""

RETRY_DELAY_S = 0.3
"""Delay before a retry of a call or of the heartbeat stream."""

MAX_CALL_BYTES = 64 << 20
_POLL_S = 0.2
"""Interval at which a waiting thread checks for cancellation."""

_CLOSE_TIMEOUT_S = 5.0

CONNECTION_ERRORS = (aiohttp.ClientError, OSError)
"""Errors of a lost connection; OSError includes the TimeoutError of a missing heartbeat."""

_RETRYABLE = {error.problem: error for error in (OverloadedError, DrainingError, NotReadyError)}
"""Problems a service reports together with `retry_after_s`."""

T = TypeVar("T")


class ModelProxy(Protocol):
    """The proxy that `bentoml.depends` returns for a model's service (see `slidecascade.hosting.bento_model`)."""

    @property
    def to_async(self) -> Any:
        """The asynchronous client: ``call("run", inputs=...)`` is awaited, ``call("pulse")`` is iterated."""
        ...

    async def close(self) -> None: ...


class BentoRunner:
    """Sends every batch to the service of its model. Thread-safe.

    The constructor makes no calls, so services can start in any order. Each service sends a heartbeat every second
    over an open stream: readiness needs no request, calls to a hanging service are aborted, and a service that
    is shutting down sees from the open stream that it is still in use.

    Args:
        packages: the models to run.
        services: the proxy of each model's service, by model name.
        retry_after_s: retry delay in seconds, reported when a service is unavailable.
    """

    def __init__(
        self,
        packages: Iterable[ModelPackage],
        services: Mapping[str, ModelProxy],
        *,
        retry_after_s: int = RETRY_AFTER_S,
    ) -> None:
        self._retry_after_s = retry_after_s
        self._remotes = {
            package.spec.name: _Remote(package.spec, services[package.spec.name], retry_after_s)
            for package in packages
        }
        self._closed = False
        self._closing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bento", daemon=True)
        self._thread.start()
        self._listeners = [self._submit(remote.listen()) for remote in self._remotes.values()]

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """See `Runner.run`.

        Raises:
            ModelFailedError: when the network failed or its service returned invalid outputs.
            NotReadyError: when the service is unavailable.
            OverloadedError: when the service's queue is full.
            ModelPackageError: when the service runs a model other than the package.
        """
        return self._run(model, inputs, Control())

    def on_behalf_of(self, control: Control) -> Runner:
        """A view of this runner that observes the deadline and cancellation of `control`.

        Its `run` also raises what ``control.check()`` raises. It needs no closing.
        """
        return CallerView(self._run, control)

    def check_ready(self) -> None:
        """Check that every service has sent a recent heartbeat; does not wait.

        Raises:
            NotReadyError: when a service has not; the message names it.
            ModelPackageError: when a service runs a model other than its package.
        """
        for remote in self._remotes.values():
            remote.require_expected_model()
        if missing := [name for name, remote in self._remotes.items() if not remote.is_connected]:
            raise NotReadyError(
                f"The services of {', '.join(missing)} are not available yet: see the service's log.",
                retry_after_s=self._retry_after_s,
            )

    def close(self) -> None:
        """Cancel the calls in flight and close the connections."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with suppress(TimeoutError):
            self._submit(self._shut_down()).result(_CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Any:
        """Schedule `work` on the loop; its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _shut_down(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for remote in self._remotes.values():
            await remote.close()

    def _run(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        remote = self._remotes.get(model)
        if remote is None:
            raise UnknownModelError(f"There is no service for a model {model!r}.")
        outputs = remote.spec.signature.new_outputs(model, inputs)
        step = max(1, MAX_CALL_BYTES // image_bytes(inputs, outputs))
        for start in range(0, batch_of(inputs), step):
            part = part_of(inputs, start, start + step)
            batch = {name: np.ascontiguousarray(array) for name, array in part.items()}
            for name, array in self._wait(remote.run(batch), control).items():
                outputs[name][start : start + step] = array
        return outputs

    def _wait(self, work: Coroutine[Any, Any, Tensors], control: Control) -> Tensors:
        """The result of `work`, within the deadline of `control`."""
        with self._closing:
            if self._closed:
                work.close()
                raise self._closing_error()
            future = self._submit(work)
        try:
            while True:
                try:
                    answer: Tensors = future.result(min(_POLL_S, max(0.0, control.seconds_left)))
                except TimeoutError:
                    control.check()
                    if not self._thread.is_alive():
                        raise self._closing_error() from None
                else:
                    return answer
        except FutureCancelledError:
            raise self._closing_error() from None
        finally:
            future.cancel()  # closes the connection of an unfinished call, which cancels it in the service

    def _closing_error(self) -> DrainingError:
        return DrainingError("The service is shutting down: try again later.", retry_after_s=self._retry_after_s)


class _Remote:
    """The service of one model; used on the event loop."""

    def __init__(self, spec: Spec, proxy: ModelProxy, retry_after_s: int) -> None:
        self.spec = spec
        self._proxy = proxy
        self._retry_after_s = retry_after_s
        self._connected = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._disconnected.set()
        self._lost_at = time.monotonic()
        self._has_wrong_model = False

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    def require_expected_model(self) -> None:
        """Raises ModelPackageError when the service runs a model other than its package."""
        if self._has_wrong_model:
            raise self._wrong_model()

    async def listen(self) -> None:
        """Keep the heartbeat stream open until cancelled."""
        while True:
            try:
                await self._read_heartbeats()
            except NotFound:
                self._has_wrong_model = True  # its routes contain the model's sha256
            except (*CONNECTION_ERRORS, BentoMLException, ValueError) as error:
                LOG.debug("no heartbeat from the service of model %r: %s", self.spec.name, type(error).__name__)
            if self.is_connected:
                LOG.warning("lost the connection to the service of model %r", self.spec.name)
                self._lost_at = time.monotonic()
            self._connected.clear()
            self._disconnected.set()
            await asyncio.sleep(RETRY_DELAY_S)

    async def run(self, inputs: Tensors) -> Tensors:
        """The network's outputs for `inputs`; retried once when the connection was lost."""
        try:
            return await self._call(inputs)
        except CONNECTION_ERRORS as error:
            LOG.warning("call to the service of model %r failed: %s", self.spec.name, type(error).__name__)
        await asyncio.sleep(RETRY_DELAY_S)
        try:
            return await self._call(inputs)
        except CONNECTION_ERRORS as error:
            raise self._unavailable() from error

    async def close(self) -> None:
        await self._proxy.close()

    async def _read_heartbeats(self) -> None:
        heartbeats = self._proxy.to_async.call("pulse")
        try:
            while True:
                async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                    await anext(heartbeats)
                self._has_wrong_model = False
                self._disconnected.clear()
                self._connected.set()
        except StopAsyncIteration:
            return
        finally:
            await heartbeats.aclose()

    async def _call(self, inputs: Tensors) -> Tensors:
        await self._wait_until_connected()
        call = asyncio.ensure_future(self._proxy.to_async.call("run", inputs=inputs))
        disconnected = asyncio.ensure_future(self._disconnected.wait())
        first: set[asyncio.Future[Any]] = {call, disconnected}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ConnectionResetError("no heartbeat from the service")
            return self._checked(call.result(), inputs)
        except BentoMLException as error:
            raise self._failure(error) from error
        finally:
            call.cancel()
            disconnected.cancel()

    async def _wait_until_connected(self) -> None:
        """Wait for a service that is restarting."""
        self.require_expected_model()
        if not self.is_connected:
            left_s = self._lost_at + RESTART_WAIT_S - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._connected.wait()
            except TimeoutError:
                self.require_expected_model()
                raise self._unavailable() from None

    def _wrong_model(self) -> ModelPackageError:
        return ModelPackageError(
            f"The service of model {self.spec.name!r} runs a model other than the one the models folder held at "
            "startup: restart SlideCascade."
        )

    def _unavailable(self) -> NotReadyError:
        return NotReadyError(
            f"The service of model {self.spec.name!r} is not available: try again later.",
            retry_after_s=self._retry_after_s,
        )

    def _checked(self, outputs: Any, inputs: Tensors) -> Tensors:
        """`outputs`, validated by name, dtype and shape; the service has validated their values."""
        shapes = self.spec.signature.require_inputs(self.spec.name, inputs)
        if not isinstance(outputs, dict) or not all(isinstance(each, np.ndarray) for each in outputs.values()):
            raise ModelFailedError(
                f"The service of model {self.spec.name!r} did not return arrays: verify the model."
            )
        if mismatch := self.spec.signature.mismatch(outputs, shapes):
            raise ModelFailedError(f"The service of model {self.spec.name!r} {mismatch}: verify the model.")
        return outputs

    def _failure(self, error: BentoMLException) -> SlideCascadeError:
        """The error that a response of the service reports."""
        if isinstance(error, NotFound):
            self._has_wrong_model = True
            return self._wrong_model()
        try:
            report = json.loads(error.message)
            if report["problem"] == ModelFailedError.problem:
                return ModelFailedError(report["detail"])
            return _RETRYABLE[report["problem"]](report["detail"], retry_after_s=report["retry_after_s"])
        except (ValueError, KeyError, TypeError):
            return ModelFailedError(
                f"The service of model {self.spec.name!r} failed unexpectedly: see the service's log."
            )
