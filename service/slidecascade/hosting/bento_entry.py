"""The BentoML service around a `Process`.

BentoML packages, allocates, starts and stops. Its request handling is disabled or replaced: its metrics and
access logs contain raw paths, its errors have three formats, and its timeout neither stops the work nor cancels
its timers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils.analytics import usage_stats
from bentoml._internal.utils.uri import path_to_uri, uri_to_path
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from slidecascade import logs, wire
from slidecascade.errors import InvalidRequestError, SlideCascadeError
from slidecascade.hosting.bento_model import UntimedService, model_services, remove_temp_folder
from slidecascade.jobs.records import JobRecord
from slidecascade.jobs.uploads import Upload
from slidecascade.privacy import forbid_telemetry
from slidecascade.runners.bento import ModelProxy
from slidecascade.settings import Settings, read_settings
from slidecascade.web.context import (
    NATIVE_CANCEL_ROUTE,
    NATIVE_JOB_ROUTE,
    NATIVE_RESULT_ROUTE,
    NATIVE_ROUTE,
    NATIVE_SHOW_ROUTE,
    Process,
)
from slidecascade.web.intake import Order, parse, read_json
from slidecascade.web.jobstate import job_info
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.statuses import status_of
from slidecascade.web.submission import Submissions

MAX_ID: Final = 64
READ_S: Final = 30.0


def served() -> Process:
    """The `Process` of the BentoML service in this interpreter."""
    process: Process = bentoml.get_current_service().process
    return process


async def rest_api(scope: Scope, receive: Receive, send: Send) -> None:
    """The REST API; can be mounted before the `Process` exists."""
    await served().rest(scope, receive, send)


class Gate:
    """ASGI middleware that applies the guard of the `Process` to BentoML's application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._guarded: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._guarded is None:  # the `Process` is created after this object and before the first request
            self._guarded = served().guard(self._app)
        await self._guarded(scope, receive, send)


class RegionInput(bentoml.IODescriptor):  # type: ignore[misc]  # untyped base
    """The input of BentoML's clients: the form of ``POST /v1/regions``, parsed by the same parser.

    BentoML's own parser would store uploads on disk, and would fetch a URL sent in place of an image.
    """

    request: wire.RegionRequest
    image: Path = Field(default=None)  # type: ignore[assignment]  # BentoML has no optional files

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:  # noqa: ARG003 - BentoML's signature
        with Exchange.of(request).noting():
            order = await served().regions.read_native(request)
        read: Self = cls.model_construct(request=order.request, image=order.image)
        return read


class JobInput(bentoml.IODescriptor):  # type: ignore[misc]  # untyped base
    """The input of BentoML's clients: the form of ``POST /v1/jobs``, and the key of the job in its request."""

    request: wire.JobOrder
    image: Path = Field(default=None)  # type: ignore[assignment]  # BentoML has no optional files

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:  # noqa: ARG003 - BentoML's signature
        with Exchange.of(request).noting():
            order, upload = await _submissions(served()).read_native(request)
        read: Self = cls.model_construct(request=order, image=upload)
        return read


class JobChoice(wire.WireModel):
    """A job by its id."""

    job_id: Annotated[str, Field(min_length=1, max_length=MAX_ID)]


class JobChoiceInput(bentoml.IODescriptor):  # type: ignore[misc]  # untyped base
    """The input of BentoML's clients that name a job, read within the limits of other requests."""

    job_id: str

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:  # noqa: ARG003 - BentoML's signature
        with Exchange.of(request).noting():
            choice = parse(JobChoice, await read_json(request, max_s=READ_S))
        read: Self = cls.model_construct(job_id=choice.job_id)
        return read


def _job_answer(record: JobRecord) -> dict[str, Any]:
    """The job as JSON; BentoML sends a response unchanged, and its clients decode it to the dict."""
    return Response(job_info(record, status_of).model_dump_json(), media_type=wire.JSON)  # type: ignore[return-value]


def _submissions(process: Process) -> Submissions:
    """Raises InvalidRequestError when the process takes no jobs."""
    if process.submissions is None:
        message = "This server takes no jobs: its operator has not set SLIDECASCADE_JOBS_DIR."
        raise InvalidRequestError(message, (("request", message),))
    return process.submissions


class EntryService(UntimedService):
    """The region service; its dependencies are chosen when it is served, not when the Bento is built."""

    def on_load_bento(self, bento: Any) -> None:
        for service in self.all_services().values():
            service.bento = bento


class RegionService:
    """Finds and classifies the cells of slide regions. For Research Use Only."""

    dependencies: ClassVar[Mapping[str, str]] = {}
    """Names of the attributes with the proxies of models' services, by model name."""

    def __init__(self) -> None:
        self.process = Process.open(read_settings(), services=self._services())

    def _services(self) -> Mapping[str, ModelProxy]:
        """The proxies of remote services; none where BentoML would create the objects in this process."""
        found = {}
        for model, attribute in self.dependencies.items():
            service = getattr(type(self), attribute).on
            if service.url is not None:
                keep_socket_reachable(service.name)
                found[model] = getattr(self, attribute)
                remove_temp_folder(found[model])
        return found

    @bentoml.api(route=NATIVE_ROUTE, input_spec=RegionInput)  # type: ignore[untyped-decorator]  # untyped
    async def analyze_region(
        self, request: wire.RegionRequest, image: bytes | None = None, *, ctx: bentoml.Context
    ) -> dict[str, Any]:
        """Analyse a region of an uploaded image, or of the slide that `request` names.

        Returns ``{"summary": ..., "cells": ...}``: the summary, and the cells as a GeoJSON FeatureCollection.
        """
        with Exchange.of(ctx.request).noting():
            # BentoML sends a response unchanged; its clients decode it to the dict.
            return await self.process.regions.answer_native(Order(request, image), ctx.request)  # type: ignore[return-value]

    @bentoml.api(route=NATIVE_JOB_ROUTE, input_spec=JobInput)  # type: ignore[untyped-decorator]  # untyped
    async def submit_job(
        self, request: wire.JobOrder, image: Upload | None = None, *, ctx: bentoml.Context
    ) -> dict[str, Any]:
        """Submit the job of an uploaded image, or of the slide that `request` names; returns the job.

        `show_job`, `job_result` and `cancel_job` take its id.
        """
        with Exchange.of(ctx.request).noting():
            key = request.idempotency_key
            accepted = await _submissions(self.process).enter(ctx.request, request.job, key, image)
            return _job_answer(accepted.record)

    @bentoml.api(route=NATIVE_SHOW_ROUTE, input_spec=JobChoiceInput)  # type: ignore[untyped-decorator]  # untyped
    async def show_job(self, job_id: str, *, ctx: bentoml.Context) -> dict[str, Any]:
        """The job, with its progress and the links to its results."""
        with Exchange.of(ctx.request).noting():
            return _job_answer(await _submissions(self.process).show(ctx.request, job_id))

    @bentoml.api(route=NATIVE_RESULT_ROUTE, input_spec=JobChoiceInput)  # type: ignore[untyped-decorator]  # untyped
    async def job_result(self, job_id: str, *, ctx: bentoml.Context) -> dict[str, Any]:
        """``{"summary": ..., "cells": ...}`` of a job that has succeeded, as `analyze_region` returns it."""
        with Exchange.of(ctx.request).noting():
            return await _submissions(self.process).result(ctx.request, job_id)  # type: ignore[return-value]

    @bentoml.api(route=NATIVE_CANCEL_ROUTE, input_spec=JobChoiceInput)  # type: ignore[untyped-decorator]  # untyped
    async def cancel_job(self, job_id: str, *, ctx: bentoml.Context) -> dict[str, Any]:
        """Stop a job that has not ended; returns it."""
        with Exchange.of(ctx.request).noting():
            return _job_answer(await _submissions(self.process).cancel(ctx.request, job_id))

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # untyped
    @staticmethod
    def validate_packages() -> None:
        """Validate the packages once, before BentoML starts workers: it restarts a failing worker indefinitely."""
        # The settings assign the GPUs; BentoML would assign indices of GPUs that do not exist.
        os.environ["BENTOML_DISABLE_GPU_ALLOCATION"] = "1"
        try:
            Process.open(read_settings()).close()
        except SlideCascadeError as error:
            raise SystemExit(str(error)) from None

    @bentoml.on_startup  # type: ignore[untyped-decorator]  # untyped
    async def take_over(self) -> None:
        logs.configure()
        self.process.take_over()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # untyped
    def close(self) -> None:
        self.process.close()


def keep_socket_reachable(service: str) -> None:
    """Keep the socket of a BentoML service reachable after its path is removed.

    On SIGTERM BentoML's supervisor removes the folder of sockets first, while regions in flight still open new
    connections. The socket itself stays open and is reached through an open handle.
    """
    addresses = BentoMLContainer.remote_runner_mapping.get()
    if addresses[service].startswith("file:") and hasattr(os, "O_PATH"):
        handle = os.open(uri_to_path(addresses[service]), os.O_PATH)
        addresses[service] = path_to_uri(f"/proc/self/fd/{handle}")


def make_service(settings: Settings) -> Any:
    """The BentoML service, which depends on one service for every model with the runner ``bento``.

    Raises:
        ModelPackageError: when there is such a model and a package is invalid.
        SettingsError: when a setting names an unknown model.
    """
    models = model_services(settings)
    attributes = {model: f"model_{number}" for number, model in enumerate(models)}
    members: dict[str, Any] = {attributes[model]: bentoml.depends(service) for model, service in models.items()}
    members |= {"__doc__": RegionService.__doc__, "__module__": __name__, "dependencies": attributes}
    inner = bentoml.asgi_app(rest_api, path="/", name="rest")(type("SlideCascade", (RegionService,), members))
    service: Any = bentoml.service(
        name="slidecascade",
        service_class=EntryService,
        workers=1,  # every worker loads all models: scale by processes on other ports or machines
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
    )(inner)
    service.add_asgi_middleware(Gate)
    return service


def _forbid_tracking() -> None:
    """Disable BentoML's telemetry in its own commands, which read and cache the variable at startup."""
    forbid_telemetry()
    usage_stats.do_not_track.cache_clear()


def __getattr__(name: str) -> Any:
    """``SlideCascade``, which BentoML imports by name; created on access, so that an import reads no settings."""
    if name != "SlideCascade":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _forbid_tracking()
    try:
        service = make_service(read_settings())
    except SlideCascadeError as error:
        raise SystemExit(str(error)) from None
    globals()[name] = service
    return service
