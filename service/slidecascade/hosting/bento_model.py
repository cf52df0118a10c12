"""A model as a BentoML service: its network in a separate process, shared by all clients.

BentoML starts the process, transfers the tensors and stops the process. Its dispatcher of batchable calls is
replaced: it fails all calls of a batch when one has another image size or makes the network fail, rejects calls by
an estimated latency, has an unbounded queue, and runs calls of disconnected clients.
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
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.bento import HEARTBEAT_S
from slidecascade.runners.choice import batches, concurrent_calls, names_by_kind, open_local
from slidecascade.runners.precision import served_packages
from slidecascade.runners.runner import Runner, Unobserved, bound
from slidecascade.settings import Settings
from slidecascade.web.middleware.drain import Drain
from slidecascade.web.pool import Pool
from slidecascade.web.regions import wait_for_disconnect

LOG = logging.getLogger(__name__)

UNLIMITED = 1_000_000_000
"""Effectively unlimited. At its limits BentoML's client renews its session and closes the old one during calls."""

EXTRA_GRACE_S = 15.0
"""Shutdown time of a model's service beyond that of the process that calls it."""

_JOINED_CALLS = 64


def service_name(model: str) -> str:
    """The BentoML name of the service of `model`."""
    return f"model-{model}"


def model_service(package: ModelPackage, settings: Settings, *, gpu: int, gpu_share: float) -> Any:
    """The BentoML service of a model.

    Its routes contain the model's sha256, so that a client never gets outputs of another model, such as one that
    replaced the package before the service restarted.

    Args:
        settings: the service's settings; `device`, `batching` and the limits apply.
        gpu: the index of the GPU to use, if the device is a GPU.
        gpu_share: fraction of a GPU to request from BentoML's scheduler.
    """
    resources = {} if settings.device == "cpu" else {"resources": {"gpu": gpu_share}}
    settings = settings.model_copy(update={"gpus": str(gpu)})

    class Model:
        def __init__(self) -> None:
            self.queue = open_queue(package, settings)
            self.clients = Clients()
            grace_s = settings.drain_notice_s + settings.drain_grace_s + EXTRA_GRACE_S
            self.drain = Drain(self.clients, notice_s=0.0, grace_s=grace_s)

        @bentoml.api(  # type: ignore[untyped-decorator]  # untyped
            batchable=True,
            max_batch_size=max(2, settings.max_batch),
            route=f"/{package.spec.sha256}/run",
            input_spec=Inputs,
        )
        def run(self, inputs: Any) -> dict[str, Any]:
            """The network's output arrays by name, for input arrays by name."""
            return dict(self.queue.run(inputs, Control()))

        @bentoml.api(route=f"/{package.spec.sha256}/pulse")  # type: ignore[untyped-decorator]  # untyped
        async def pulse(self) -> AsyncIterator[str]:
            """A heartbeat every second until either side closes the stream: the client sees that this process is
            alive, and this process that it is in use."""
            with self.clients.connected():
                yield "."
                while not await self.clients.wait_for_shutdown(timeout_s=HEARTBEAT_S):
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
        traffic={"timeout": UNLIMITED},  # also BentoML's client timeout; requests have deadlines of their own
        runner_connection={"max_requests": UNLIMITED, "max_age": float(UNLIMITED)},
        **resources,
    )(Model)


def remove_temp_folder(proxy: Any) -> None:
    """Remove the temporary folder of a BentoML client: it receives no files, and a killed process would leave the
    folder behind."""
    proxy.to_async._temp_dir.cleanup()


class Factory(ServiceAppFactory):  # type: ignore[misc]  # untyped base
    """BentoML's application factory, without the temporary folder of the service's client of itself."""

    async def create_instance(self, app: Starlette) -> None:
        await super().create_instance(app)
        remove_temp_folder(self._service_instance.__self_proxy__)


class UntimedService(Service[Any]):  # type: ignore[misc]  # untyped base
    """A service without BentoML's timeout: `Control` stops the work itself and leaves no timers."""

    def to_asgi(self, is_main: bool = True) -> Starlette:
        self.inject_config()
        factory = Factory(self, is_main=is_main)
        factory.timeout = None
        self.prepare(factory)
        app: Starlette = factory()
        return app

    def prepare(self, factory: Any) -> None:
        """Modify BentoML's application factory."""


class ModelService(UntimedService):
    """A service whose batchable calls pass through its `Queue`."""

    def prepare(self, factory: Any) -> None:
        factory.dispatchers = dict.fromkeys(factory.dispatchers, Dispatcher())


@dataclass(frozen=True, slots=True)
class Call:
    """The inputs of a call and its request, which signals a client disconnect."""

    inputs: Tensors
    request: Request


class Inputs(bentoml.IODescriptor):  # type: ignore[misc]  # untyped base
    """The inputs of a call, arrays by name; parsed to a `Call` in the service."""

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
    """Replaces BentoML's dispatcher: passes every call to the `Queue` separately."""

    def __call__(self, _joined: object) -> Callable[[Call], Awaitable[Tensors | Response]]:
        return self._answer

    async def _answer(self, call: Call) -> Tensors | Response:
        queue: Queue = bentoml.get_current_service().queue
        try:
            return await queue.answer(call)
        except SlideCascadeError as error:
            return _error_response(error)


class Queue:
    """A bounded queue of the calls of one model; each call runs in a thread, and the runner may batch them.

    Args:
        runner: runs the calls; closed with the queue.
        threads: number of concurrent calls of the runner.
        max_items: maximum queued images; a single larger call is accepted into an empty queue.
    """

    def __init__(self, runner: Runner, *, model: str, threads: int, max_items: int, retry_after_s: int) -> None:
        self._runner = runner
        self._model = model
        self._pool = Pool(threads, name="call")
        self._max_items = max_items
        self._retry_after_s = retry_after_s
        self._threads = threads
        self._calls = 0
        self._waiting: dict[Control, int] = {}
        self._changed = threading.Lock()

    def close(self) -> None:
        self._pool.close()
        self._runner.close()

    def run(self, inputs: Tensors, control: Control) -> Tensors:
        """Run the network now; raises the errors of a `SharedRunner`."""
        return bound(self._runner, control).run(self._model, inputs)

    async def answer(self, call: Call) -> Tensors:
        """Enqueue `call` and return the network's outputs.

        Raises:
            OverloadedError: when the queue is full.
            CancelledError: when the client disconnected.
            ModelFailedError: when the network failed.
        """
        control = Control()
        self._enqueue(control, batch_of(call.inputs))
        work = self._pool.submit(self._run_in_thread, call.inputs, control)
        disconnected = asyncio.ensure_future(wait_for_disconnect(call.request))
        first: set[asyncio.Future[Any]] = {work, disconnected}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise CancelledError("The client disconnected while the network ran.")
            return work.result()
        finally:
            self._dequeue(control)
            self._calls -= 1
            control.cancel()
            disconnected.cancel()

    def _enqueue(self, control: Control, items: int) -> None:
        with self._changed:
            waiting = sum(self._waiting.values())
            if self._calls >= self._threads and waiting and waiting + items > self._max_items:
                raise OverloadedError(
                    f"The queue of model {self._model!r} is full with {waiting} images: try again later.",
                    retry_after_s=self._retry_after_s,
                )
            self._waiting[control] = items
            self._calls += 1  # changed on the event loop only

    def _dequeue(self, control: Control) -> None:
        """Remove the images of `control` from the count of queued ones."""
        with self._changed:
            self._waiting.pop(control, None)

    def _run_in_thread(self, inputs: Tensors, control: Control) -> Tensors:
        self._dequeue(control)
        control.check()  # the call may have been cancelled while it was queued
        try:
            return self.run(inputs, control)
        except ModelFailedError as error:
            LOG.error("model %r failed", self._model, exc_info=error)
            raise
        except SlideCascadeError:
            raise
        except Exception as error:  # worker boundary: reported as an error that the client knows
            LOG.exception("model %r failed unexpectedly", self._model)
            raise ModelFailedError(f"Model {self._model!r} failed unexpectedly: see the service's log.") from error


def open_queue(package: ModelPackage, settings: Settings) -> Queue:
    """The queue of the network of `package`; on a CPU one concurrent call per core.

    Raises:
        ModelPackageError: for an invalid package.
        SettingsError: when the device is a GPU and none is usable.
    """
    local = settings.model_copy(update={"runner": "local", "runner_by_model": ""})
    return Queue(
        open_local([package], settings, Unobserved()),
        model=package.spec.name,
        threads=_JOINED_CALLS if batches(settings) else concurrent_calls(local),
        max_items=settings.max_queue_items,
        retry_after_s=settings.retry_after_s,
    )


class Clients:
    """Counts connected clients, which are those with an open `pulse` stream."""

    def __init__(self) -> None:
        self._open = 0
        self._closing = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return self._open

    def close(self) -> None:
        """Does nothing: connected clients may finish their requests, including with new calls."""

    def abandon(self) -> None:
        """Signal connected clients to disconnect."""
        self._closing.set()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Count one client while in the context."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def wait_for_shutdown(self, *, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for `abandon`; whether it was called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._closing.wait()
        return self._closing.is_set()


def _error_response(error: SlideCascadeError) -> Response:
    """`error` as a JSON response, in the format that `runners.bento` parses."""
    body: dict[str, Any] = {"problem": error.problem, "detail": error.detail}
    if isinstance(error, RetryLaterError):
        body["retry_after_s"] = error.retry_after_s
    return JSONResponse(body, status_code=503 if isinstance(error, RetryLaterError) else 500)


def model_services(settings: Settings) -> Mapping[str, Any]:
    """The BentoML services of the models with the runner ``bento``, by name; GPUs are assigned round robin.

    Raises:
        ModelPackageError: when there are such models and a package is invalid.
        SettingsError: when a setting names an unknown model.
    """
    if "bento" not in {settings.runner, *settings.runners_by_model.values()}:
        return {}
    packages = served_packages(settings)
    names = names_by_kind(packages, settings).get("bento", [])
    gpus = settings.gpu_numbers
    share = min(1.0, len(gpus) / max(1, len(names)))
    return {
        name: model_service(packages[name], settings, gpu=gpus[index % len(gpus)], gpu_share=share)
        for index, name in enumerate(names)
    }
