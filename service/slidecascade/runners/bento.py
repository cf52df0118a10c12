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
from numpy.typing import NDArray

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
from slidecascade.runners.runner import CallerView, Runner
from slidecascade.runners.server_metadata import Spec, new_output

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
RETRY_AFTER_S = 2
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
        """Its ``call(name, ...)``: ``run(images=...)`` is awaited, ``pulse()`` is iterated over."""
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
    """

    def __init__(self, packages: Iterable[ModelPackage], services: Mapping[str, ModelProxy]) -> None:
        self._remotes = {
            package.spec.name: _Remote(package.spec, services[package.spec.name]) for package in packages
        }
        self._closed = False
        self._closing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bento", daemon=True)
        self._thread.start()
        self._listening = [self._begin(remote.listen()) for remote in self._remotes.values()]

    def run(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Runner.run`.

        Raises:
            ModelFailedError: when the network raised or its service returned what it must not.
            NotReadyError: when the service is not there.
            OverloadedError: when too many images wait for the service.
            ModelPackageError: when the service runs another model than the package.
        """
        return self._run(model, images, Control())

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
                retry_after_s=RETRY_AFTER_S,
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

    def _run(self, model: str, images: NDArray[np.uint8], control: Control) -> NDArray[Any]:
        remote = self._remotes.get(model)
        if remote is None:
            raise UnknownModelError(f"There is no service for a model {model!r}.")
        outputs = new_output(remote.spec, images.shape)
        step = max(1, MAX_CALL_BYTES // max(1, images[:1].nbytes))
        for start in range(0, len(images), step):
            batch = np.ascontiguousarray(images[start : start + step])
            outputs[start : start + step] = self._answer(remote.run(batch), control)
        return outputs

    def _answer(self, work: Coroutine[Any, Any, NDArray[Any]], control: Control) -> NDArray[Any]:
        """What `work` returns, for as long as `control` has its caller wait."""
        with self._closing:
            if self._closed:
                work.close()
                raise _closing()
            future = self._begin(work)
        try:
            while True:
                try:
                    answer: NDArray[Any] = future.result(min(_LOOK_S, max(0.0, control.seconds_left)))
                except TimeoutError:
                    control.check()
                    if not self._thread.is_alive():
                        raise _closing() from None
                else:
                    return answer
        except Abandoned:
            raise _closing() from None
        finally:
            future.cancel()  # where nobody waits any more the connection is closed, which tells the service


class _Remote:
    """The service of one model, as the loop sees it."""

    def __init__(self, spec: Spec, proxy: ModelProxy) -> None:
        self.spec = spec
        self._proxy = proxy
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

    async def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """The network's output for `images`; asked for once more when the service was lost."""
        try:
            return await self._ask(images)
        except LOST as error:
            LOG.warning("a call to the service of model %r broke off: %s", self.spec.name, type(error).__name__)
        await asyncio.sleep(PAUSE_S)
        try:
            return await self._ask(images)
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

    async def _ask(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        await self._until_there()
        call = asyncio.ensure_future(self._proxy.to_async.call("run", images=images))
        gone = asyncio.ensure_future(self._gone.wait())
        first: set[asyncio.Future[Any]] = {call, gone}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ConnectionResetError("the service fell silent")
            return self._checked(call.result(), images)
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
            retry_after_s=RETRY_AFTER_S,
        )

    def _checked(self, output: Any, images: NDArray[np.uint8]) -> NDArray[Any]:
        due = new_output(self.spec, images.shape)
        if not isinstance(output, np.ndarray) or (output.shape, output.dtype) != (due.shape, due.dtype):
            raise ModelFailedError(
                f"The service of model {self.spec.name!r} returned something else than {due.dtype} {due.shape}: "
                "verify the model."
            )
        return output

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


def _closing() -> DrainingError:
    return DrainingError("The networks are being shut down: try again later.", retry_after_s=RETRY_AFTER_S)
