"""Networks in BentoML services of their own, each in its own process. The only module that imports aiohttp.

What `bentoml.depends` gives speaks asyncio, and the work on tiles is done in threads: calls are made on an event
loop in a thread of its own, so that the one that answers requests copies no pixels.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError as Abandoned
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
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors, batch_of, image_bytes, part_of
from slidecascade.runners.runner import RETRY_AFTER_S, CallerView, Runner
from slidecascade.runners.server_metadata import Spec

LOG = logging.getLogger(__name__)

BEAT_S = 1.0
"""How often a service that is there says so."""

SILENT_S = 10.0
"""After so long without a beat a service is taken for stuck."""

RESTART_S = 20.0
"""How long calls wait for a service that was lost: BentoML's supervisor takes ten seconds to see it."""

PAUSE_S = 0.3
"""Before a call is made again, and before a lost service is asked for again."""

MAX_CALL_BYTES = 64 << 20
_LOOK_S = 0.2
"""How often a thread that waits for its answer looks whether its caller has left."""

_LAST_WORDS_S = 5.0

LOST = (aiohttp.ClientError, OSError)
"""What a call meets when its connection breaks; OSError includes the TimeoutError of a silent service."""

_LATER = {error.problem: error for error in (OverloadedError, DrainingError, NotReadyError)}
"""What a service tells of by name, with a time to come back."""

T = TypeVar("T")


class ModelProxy(Protocol):
    """What `bentoml.depends` gives for the service of a model (see `slidecascade.hosting.bento_model`)."""

    @property
    def to_async(self) -> Any:
        """Its ``call(name, ...)``: ``run(inputs=...)`` is awaited, ``pulse()`` is iterated over."""
        ...

    async def close(self) -> None: ...


class BentoRunner:
    """Sends every batch to the service of its model; usable from many threads at once.

    Making one asks the services nothing, so that they may start in any order. Each keeps a stream open in which it
    says every second that it is there: readiness is known without asking, a call to a service that hangs is given
    up, and a service that was told to stop knows by the stream that it is still needed.

    Args:
        packages: the models to run.
        services: what `bentoml.depends` gives for each of them, by name.
        retry_after_s: when a caller is to come back whom no service could serve, in seconds.
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
        self._listening = [self._begin(remote.listen()) for remote in self._remotes.values()]

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """See `Runner.run`.

        Raises:
            ModelFailedError: when the network raised or its service returned what it must not.
            NotReadyError: when the service is not there.
            OverloadedError: when too many images wait for the service.
            ModelPackageError: when the service runs another model than the package.
        """
        return self._run(model, inputs, Control())

    def on_behalf_of(self, control: Control) -> Runner:
        """A view of this runner for one caller, who is not kept beyond the caller's time limit.

        Its `run` also raises what ``control.check()`` raises. It needs no closing.
        """
        return CallerView(self._run, control)

    def check_ready(self) -> None:
        """Return when the service of every model has said so within the last seconds; does not wait.

        Raises:
            NotReadyError: when one has not; the message says which.
            ModelPackageError: when one runs another model than its package.
        """
        for remote in self._remotes.values():
            remote.require_right()
        if missing := [name for name, remote in self._remotes.items() if not remote.is_there]:
            raise NotReadyError(
                f"The services of {', '.join(missing)} are not there yet: see the service's log.",
                retry_after_s=self._retry_after_s,
            )

    def close(self) -> None:
        """Give up the calls being made and close the connections."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with suppress(TimeoutError):
            self._begin(self._shut()).result(_LAST_WORDS_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LAST_WORDS_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _begin(self, work: Coroutine[Any, Any, T]) -> Any:
        """The future of `work`, begun on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _shut(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
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
            for name, array in self._answer(remote.run(batch), control).items():
                outputs[name][start : start + step] = array
        return outputs

    def _answer(self, work: Coroutine[Any, Any, Tensors], control: Control) -> Tensors:
        """What `work` returns, for as long as `control` has its caller wait."""
        with self._closing:
            if self._closed:
                work.close()
                raise self._closing_error()
            future = self._begin(work)
        try:
            while True:
                try:
                    answer: Tensors = future.result(min(_LOOK_S, max(0.0, control.seconds_left)))
                except TimeoutError:
                    control.check()
                    if not self._thread.is_alive():
                        raise self._closing_error() from None
                else:
                    return answer
        except Abandoned:
            raise self._closing_error() from None
        finally:
            future.cancel()  # where nobody waits any more the connection is closed, which tells the service

    def _closing_error(self) -> DrainingError:
        return DrainingError(
            "The networks are being shut down: try again later.", retry_after_s=self._retry_after_s
        )


class _Remote:
    """The service of one model, as the loop sees it."""

    def __init__(self, spec: Spec, proxy: ModelProxy, retry_after_s: int) -> None:
        self.spec = spec
        self._proxy = proxy
        self._retry_after_s = retry_after_s
        self._beats = asyncio.Event()
        self._gone = asyncio.Event()
        self._gone.set()
        self._lost_at = time.monotonic()
        self._is_wrong = False

    @property
    def is_there(self) -> bool:
        return self._beats.is_set()

    def require_right(self) -> None:
        """Raises ModelPackageError when the service was found to run another model."""
        if self._is_wrong:
            raise self._other_model()

    async def listen(self) -> None:
        """Keep the stream of beats open, for ever."""
        while True:
            try:
                await self._hear()
            except NotFound:
                self._is_wrong = True  # its addresses hold the model's sha256
            except (*LOST, BentoMLException, ValueError) as error:
                LOG.debug("no beat of model %r: %s", self.spec.name, type(error).__name__)
            if self.is_there:
                LOG.warning("lost the service of model %r", self.spec.name)
                self._lost_at = time.monotonic()
            self._beats.clear()
            self._gone.set()
            await asyncio.sleep(PAUSE_S)

    async def run(self, inputs: Tensors) -> Tensors:
        """The network's outputs for `inputs`; asked for once more when the service was lost."""
        try:
            return await self._ask(inputs)
        except LOST as error:
            LOG.warning("a call to the service of model %r broke off: %s", self.spec.name, type(error).__name__)
        await asyncio.sleep(PAUSE_S)
        try:
            return await self._ask(inputs)
        except LOST as error:
            raise self._away() from error

    async def close(self) -> None:
        await self._proxy.close()

    async def _hear(self) -> None:
        beats = self._proxy.to_async.call("pulse")
        try:
            while True:
                async with asyncio.timeout(SILENT_S):
                    await anext(beats)
                self._is_wrong = False
                self._gone.clear()
                self._beats.set()
        except StopAsyncIteration:
            return
        finally:
            await beats.aclose()

    async def _ask(self, inputs: Tensors) -> Tensors:
        await self._until_there()
        call = asyncio.ensure_future(self._proxy.to_async.call("run", inputs=inputs))
        gone = asyncio.ensure_future(self._gone.wait())
        first: set[asyncio.Future[Any]] = {call, gone}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ConnectionResetError("the service fell silent")
            return self._checked(call.result(), inputs)
        except BentoMLException as error:
            raise self._failure(error) from error
        finally:
            call.cancel()
            gone.cancel()

    async def _until_there(self) -> None:
        """Wait for a service that was lost a moment ago."""
        self.require_right()
        if not self.is_there:
            left_s = self._lost_at + RESTART_S - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._beats.wait()
            except TimeoutError:
                self.require_right()
                raise self._away() from None

    def _other_model(self) -> ModelPackageError:
        return ModelPackageError(
            f"The service of model {self.spec.name!r} runs another model than was in the models folder at the "
            "start: restart SlideCascade."
        )

    def _away(self) -> NotReadyError:
        return NotReadyError(
            f"The service of model {self.spec.name!r} does not answer: try again later.",
            retry_after_s=self._retry_after_s,
        )

    def _checked(self, outputs: Any, inputs: Tensors) -> Tensors:
        """`outputs`, when they are what `inputs` call for; their values were checked where the network ran."""
        shapes = self.spec.signature.require_inputs(self.spec.name, inputs)
        if not isinstance(outputs, dict) or not all(isinstance(each, np.ndarray) for each in outputs.values()):
            raise ModelFailedError(
                f"The service of model {self.spec.name!r} returned something else than arrays: verify the model."
            )
        if mismatch := self.spec.signature.mismatch(outputs, shapes):
            raise ModelFailedError(f"The service of model {self.spec.name!r} {mismatch}: verify the model.")
        return outputs

    def _failure(self, error: BentoMLException) -> SlideCascadeError:
        """What the answer of the service tells."""
        if isinstance(error, NotFound):
            self._is_wrong = True
            return self._other_model()
        try:
            told = json.loads(error.message)
            if told["problem"] == ModelFailedError.problem:
                return ModelFailedError(told["detail"])
            return _LATER[told["problem"]](told["detail"], retry_after_s=told["retry_after_s"])
        except (ValueError, KeyError, TypeError):
            return ModelFailedError(
                f"The service of model {self.spec.name!r} failed unexpectedly: see the service's log."
            )
