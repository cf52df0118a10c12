"""A model as a BentoML service: its network in a process of its own, shared by all who call it.

BentoML starts the process, carries pixels to it and asks it to stop. Its dispatcher of batchable calls is
replaced: it takes down all calls it has joined when one is of another image size or makes the network fail, sheds
calls by a guess at how long they will take, has a queue without end, and runs calls whose caller has left.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import bentoml
import numpy as np
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk.service import Service
from bentoml.exceptions import BadInput
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from slidecascade import logs
from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    ModelFailedError,
    OverloadedError,
    RetryLaterError,
    SlideCascadeError,
)
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.tensors import Tensors, batch_of
from slidecascade.runners.bento import BEAT_S
from slidecascade.runners.choice import batches, calls_at_once, names_by_kind, open_local
from slidecascade.runners.runner import Runner, Unobserved, bound
from slidecascade.settings import Settings
from slidecascade.web.middleware.drain import Drain
from slidecascade.web.pool import Pool
from slidecascade.web.regions import until_left

LOG = logging.getLogger(__name__)

FOR_EVER = 1_000_000_000
"""After so many calls or seconds BentoML's client takes a new session and closes the old one while it is used."""

OUTLIVE_S = 15.0
"""How much longer than the process that calls it a service may take to leave."""

_JOINED_CALLS = 64


def service_name(model: str) -> str:
    """What BentoML calls the service of `model`."""
    return f"model-{model}"


def model_service(package: ModelPackage, settings: Settings, *, gpu: int, gpu_share: float) -> Any:
    """The BentoML service of a model.

    Its addresses hold the model's sha256, so that a caller never gets the answer of another model, such as one
    that was put in its place before the service was started again.

    Args:
        settings: those of the whole; `device`, `batching` and the limits are kept to.
        gpu: the number of the GPU to use, where the device is one.
        gpu_share: how much of a GPU to ask BentoML's scheduler for.
    """
    resources = {} if settings.device == "cpu" else {"resources": {"gpu": gpu_share}}
    settings = settings.model_copy(update={"gpus": str(gpu)})

    class Model:
        def __init__(self) -> None:
            self.queue = open_queue(package, settings)
            self.callers = Callers()
            grace_s = settings.drain_notice_s + settings.drain_grace_s + OUTLIVE_S
            self.drain = Drain(self.callers, notice_s=0.0, grace_s=grace_s)

        @bentoml.api(  # type: ignore[untyped-decorator]  # untyped
            batchable=True,
            max_batch_size=max(2, settings.max_batch),
            route=f"/{package.spec.sha256}/run",
            input_spec=Inputs,
        )
        def run(self, inputs: Any) -> dict[str, Any]:
            """The network's outputs by name, arrays, for one array per input."""
            return dict(self.queue.run(inputs, Control()))

        @bentoml.api(route=f"/{package.spec.sha256}/pulse")  # type: ignore[untyped-decorator]  # untyped
        async def pulse(self) -> AsyncIterator[str]:
            """A beat every second, until either side leaves: the caller knows that this process is there, and this
            process that it is still needed."""
            with self.callers.one():
                yield "."
                while not await self.callers.told_to_leave(within_s=BEAT_S):
                    yield "."

        @bentoml.on_startup  # type: ignore[untyped-decorator]  # untyped
        async def take_over(self) -> None:
            logs.configure(service=service_name(package.spec.name))
            self.drain.take_over()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # untyped
        def close(self) -> None:
            self.queue.close()

    return bentoml.service(
        name=service_name(package.spec.name),
        service_class=ModelService,
        workers=1,
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        traffic={"timeout": FOR_EVER},  # BentoML's client keeps to it too, and callers have limits of their own
        runner_connection={"max_requests": FOR_EVER, "max_age": float(FOR_EVER)},
        **resources,
    )(Model)


def forgo_folder(proxy: Any) -> None:
    """Remove the folder that a client of BentoML's makes for files it may be sent: none is sent here, and a
    process that is killed would leave it behind."""
    proxy.to_async._temp_dir.cleanup()


class Factory(ServiceAppFactory):  # type: ignore[misc]  # untyped base
    """What BentoML builds the application of a service with, whose client of itself has no folder."""

    async def create_instance(self, app: Starlette) -> None:
        await super().create_instance(app)
        forgo_folder(self._service_instance.__self_proxy__)


class UntimedService(Service[Any]):  # type: ignore[misc]  # untyped base
    """A service without BentoML's time limit: `Control` stops the work itself, and keeps no timer afterwards."""

    def to_asgi(self, is_main: bool = True) -> Starlette:
        self.inject_config()
        factory = Factory(self, is_main=is_main)
        factory.timeout = None
        self.prepare(factory)
        app: Starlette = factory()
        return app

    def prepare(self, factory: Any) -> None:
        """Change what BentoML builds the application from."""


class ModelService(UntimedService):
    """A service whose batchable calls go through its `Queue`."""

    def prepare(self, factory: Any) -> None:
        factory.dispatchers = dict.fromkeys(factory.dispatchers, Dispatcher())


@dataclass(frozen=True, slots=True)
class Call:
    """One caller's inputs and the request they came with, which tells when the caller leaves."""

    inputs: Tensors
    request: Request


class Inputs(bentoml.IODescriptor):  # type: ignore[misc]  # untyped base
    """The inputs of a call, arrays by name; on the service's side, the `Call`."""

    inputs: Any

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:
        sent = await super().from_http_request(request, serde)
        inputs = sent.inputs
        if not isinstance(inputs, dict) or not all(isinstance(each, np.ndarray) for each in inputs.values()):
            raise BadInput("The inputs must be arrays by name.")
        read: Self = cls.model_construct(inputs=Call(inputs, request))
        return read


class Dispatcher:
    """What BentoML asks in place of its own dispatcher: every call goes to the `Queue` by itself."""

    def __call__(self, _joined: object) -> Callable[[Call], Awaitable[Tensors | Response]]:
        return self._answer

    async def _answer(self, call: Call) -> Tensors | Response:
        queue: Queue = bentoml.get_current_service().queue
        try:
            return await queue.answer(call)
        except SlideCascadeError as error:
            return _told(error)


class Queue:
    """Calls of one model, each in a thread: they run side by side, or meet in the runner's own batches.

    Args:
        runner: what runs them; closed with the queue.
        threads: calls that are with the runner at a time.
        most: images that may wait for a thread; one call larger than that waits alone.
    """

    def __init__(self, runner: Runner, *, model: str, threads: int, most: int, retry_after_s: int) -> None:
        self._runner = runner
        self._model = model
        self._pool = Pool(threads, name="call")
        self._most = most
        self._retry_after_s = retry_after_s
        self._threads = threads
        self._inside = 0
        self._waiting: dict[Control, int] = {}
        self._changed = threading.Lock()

    def close(self) -> None:
        self._pool.close()
        self._runner.close()

    def run(self, inputs: Tensors, control: Control) -> Tensors:
        """Run the network now; raises what a `SharedRunner` does."""
        return bound(self._runner, control).run(self._model, inputs)

    async def answer(self, call: Call) -> Tensors:
        """The network's outputs for `call`, when its turn has come.

        Raises:
            OverloadedError: when too much is waiting.
            CancelledError: when the caller has left.
            ModelFailedError: when the network raised.
        """
        control = Control()
        self._enter(control, batch_of(call.inputs))
        work = self._pool.submit(self._work, call.inputs, control)
        left = asyncio.ensure_future(until_left(call.request))
        first: set[asyncio.Future[Any]] = {work, left}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise CancelledError("The caller left while the network ran.")
            return work.result()
        finally:
            self._begin(control)
            self._inside -= 1
            control.cancel()
            left.cancel()

    def _enter(self, control: Control, items: int) -> None:
        with self._changed:
            waiting = sum(self._waiting.values())
            if self._inside >= self._threads and waiting and waiting + items > self._most:
                raise OverloadedError(
                    f"{waiting} images wait for model {self._model!r}, as many as may: try again later.",
                    retry_after_s=self._retry_after_s,
                )
            self._waiting[control] = items
            self._inside += 1  # on the event loop only

    def _begin(self, control: Control) -> None:
        """The images of `control` wait no longer."""
        with self._changed:
            self._waiting.pop(control, None)

    def _work(self, inputs: Tensors, control: Control) -> Tensors:
        self._begin(control)
        control.check()  # it may have waited for its thread
        try:
            return self.run(inputs, control)
        except ModelFailedError as error:
            LOG.error("model %r failed", self._model, exc_info=error)
            raise
        except SlideCascadeError:
            raise
        except Exception as error:  # the worker boundary: told as the caller expects it
            LOG.exception("model %r failed unexpectedly", self._model)
            raise ModelFailedError(f"Model {self._model!r} failed unexpectedly: see the service's log.") from error


def open_queue(package: ModelPackage, settings: Settings) -> Queue:
    """The queue before the network of `package`; on a CPU as many calls run at a time as there are cores.

    Raises:
        ModelPackageError: for a model that must not be served.
        SettingsError: when a GPU was asked for and there is none to use.
    """
    here = settings.model_copy(update={"runner": "local", "runner_by_model": ""})
    return Queue(
        open_local([package], settings, Unobserved()),
        model=package.spec.name,
        threads=_JOINED_CALLS if batches(settings) else calls_at_once(here),
        most=settings.max_queue_items,
        retry_after_s=settings.retry_after_s,
    )


class Callers:
    """Who may still call this process: those who keep a `pulse` open."""

    def __init__(self) -> None:
        self._open = 0
        self._closing = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return self._open

    def close(self) -> None:
        """Nothing: callers finish their work, and may begin more for it."""

    def abandon(self) -> None:
        """Tell those who are still there that they have to go."""
        self._closing.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """The time of one caller."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def told_to_leave(self, *, within_s: float) -> bool:
        """Whether callers have to go, now or within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._closing.wait()
        return self._closing.is_set()


def _told(error: SlideCascadeError) -> Response:
    """`error` as `runners.bento` reads it."""
    told: dict[str, Any] = {"problem": error.problem, "detail": error.detail}
    if isinstance(error, RetryLaterError):
        told["retry_after_s"] = error.retry_after_s
    return JSONResponse(told, status_code=503 if isinstance(error, RetryLaterError) else 500)


def model_services(settings: Settings) -> Mapping[str, Any]:
    """The BentoML services of the models that the settings give one, by name; the GPUs are dealt out in turn.

    Raises:
        ModelPackageError: when there are such models and a package must not be served.
        SettingsError: when a setting names a model that is not there.
    """
    if "bento" not in {settings.runner, *settings.runners_by_model.values()}:
        return {}
    packages = load_repository(settings.models_dir)
    names = names_by_kind(packages, settings).get("bento", [])
    gpus = settings.gpu_numbers
    share = min(1.0, len(gpus) / max(1, len(names)))
    return {
        name: model_service(packages[name], settings, gpu=gpus[index % len(gpus)], gpu_share=share)
        for index, name in enumerate(names)
    }
