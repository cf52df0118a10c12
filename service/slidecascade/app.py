"""The BentoML service around a `Process`.

BentoML packages, allocates, starts and stops. What it would do to requests is switched off or replaced: its
metrics and access lines hold raw paths, its errors have three shapes, its time limit neither stops the work nor
lets go of its timers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import bentoml
from _bentoml_sdk.service import Service  # type: ignore[import-untyped]  # bentoml is untyped, here and below
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from slidecascade import logs, wire
from slidecascade.errors import SlideCascadeError
from slidecascade.settings import read_settings
from slidecascade.web.exchange import Exchange
from slidecascade.web.intake import Order
from slidecascade.web.process import NATIVE_ROUTE, Process


def served() -> Process:
    """The process BentoML has built in this interpreter."""
    process: Process = bentoml.get_current_service().process
    return process


async def rest_api(scope: Scope, receive: Receive, send: Send) -> None:
    """The REST API, for mounting before the process is there."""
    await served().rest(scope, receive, send)


class Gate:
    """What BentoML sends every request through: the guard of the process, around BentoML's own application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._guarded: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._guarded is None:  # the process is built after this object and before the first request
            self._guarded = served().guard(self._app)
        await self._guarded(scope, receive, send)


class RegionInput(bentoml.IODescriptor):  # type: ignore[misc]  # untyped base
    """What BentoML's clients send: the form of ``POST /v1/regions``, read by the same reader.

    BentoML's own would keep uploads on disk, and would fetch an address given in place of an image.
    """

    request: wire.RegionRequest
    image: Path = Field(default=None)  # type: ignore[assignment]  # BentoML knows no file that may be absent

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:
        with Exchange.of(request).noting():
            order = await served().regions.read_native(request)
        read: Self = cls.model_construct(request=order.request, image=order.image)
        return read


class UntimedService(Service[Any]):  # type: ignore[misc]  # untyped base
    """A service without BentoML's time limit: `Control` stops the work itself, and keeps no timer afterwards."""

    def to_asgi(self, is_main: bool = True) -> Starlette:
        app: Starlette = super().to_asgi(is_main)
        timer: Any = TimeoutMiddleware
        app.user_middleware = [item for item in app.user_middleware if item.cls is not timer]
        return app


@bentoml.service(
    name="slidecascade",
    service_class=UntimedService,
    workers=1,  # models are loaded once per worker: scale by processes on other ports or machines
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(rest_api, path="/", name="rest")
class SlideCascade:
    """Finds and classifies the cells of slide regions. For Research Use Only."""

    def __init__(self) -> None:
        self.process = Process.open(read_settings())

    @bentoml.api(route=NATIVE_ROUTE, input_spec=RegionInput)  # type: ignore[untyped-decorator]  # untyped
    async def analyze_region(
        self, request: wire.RegionRequest, image: bytes | None = None, *, ctx: bentoml.Context
    ) -> dict[str, Any]:
        """Analyse a region of an uploaded image, or of the slide that `request` names.

        Answers ``{"summary": ..., "cells": ...}``: the summary, and the cells as a GeoJSON FeatureCollection.
        """
        with Exchange.of(ctx.request).noting():
            # BentoML sends a response as it is; what its clients make of it is the dict.
            return await self.process.regions.answer_native(Order(request, image), ctx.request)  # type: ignore[return-value]

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # untyped
    @staticmethod
    def refuse_bad_packages() -> None:
        """Told once, before BentoML starts worker processes: it would start a failing one again and again."""
        try:
            Process.open(read_settings()).close()
        except SlideCascadeError as error:
            raise SystemExit(str(error)) from None

    @bentoml.on_startup  # type: ignore[untyped-decorator]  # untyped
    async def take_over(self) -> None:
        logs.configure()
        self.process.drain.take_over()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # untyped
    def close(self) -> None:
        self.process.close()


SERVICE: Any = SlideCascade  # the decorator has made it a BentoML service
SERVICE.add_asgi_middleware(Gate)
