"""Answering a region request: what is wanted, what was sent, the work, the answer in pieces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slidecascade.analyser import Analyser, Report
from slidecascade.control import Control
from slidecascade.errors import CancelledError, InvalidRequestError, UnknownHeatmapError
from slidecascade.metrics import Metrics
from slidecascade.settings import Settings
from slidecascade.web.exchange import Exchange
from slidecascade.web.intake import Order, read_native_order, read_order
from slidecascade.web.negotiation import choose
from slidecascade.web.pool import Pool
from slidecascade.wire import GEOJSON, JSON, PNG, ZIP

OFFERS: Final = (GEOJSON, JSON, PNG, ZIP)
COLORMAPS: Final = ("viridis", "jet")
OVERLAY_SIDE_PX: Final = 4096
"""Longest side of ``overlay.png``: outlines stay visible, and the picture is 50 MB decoded at most."""


@dataclass(frozen=True, slots=True)
class View:
    """What of an analysis is wanted: the media type, and how heatmaps are drawn."""

    media_type: str
    heatmap: str | None
    colormap: str


class Regions:
    """Reads orders, has them analysed in threads of their own, and answers."""

    def __init__(self, analyser: Analyser, settings: Settings, metrics: Metrics) -> None:
        self._analyser = analyser
        self._settings = settings
        self._metrics = metrics
        self._pool = Pool(settings.max_regions_in_flight, name="region")

    def close(self) -> None:
        self._pool.close()

    async def answer(self, request: Request) -> Response:
        """The answer to ``POST /v1/regions``."""
        view = read_view(request)
        order = await read_order(request, max_bytes=self._settings.max_upload_bytes)
        self._require_heatmap(order, view)
        report = await self.analyse(order, request)
        return await self._respond(_encode(report, view), view.media_type)

    async def analyse(self, order: Order, request: Request) -> Report:
        """The analysis, broken off when its time is up or the caller leaves.

        Raises:
            DeadlineExceededError, CancelledError; and the errors of `Analyser.analyse`.
        """
        asked_s = order.request.deadline_s or self._settings.max_deadline_s
        # The caller's clock runs since the request began, whatever the upload took of it.
        left_s = min(asked_s, self._settings.max_deadline_s) - Exchange.of(request).seconds
        control = Control(deadline_s=max(left_s, 0.0))
        work = self._pool.submit(self._analyser.analyse, order.request, order.image, control)
        left = asyncio.ensure_future(_until_left(request))
        first: set[asyncio.Future[Any]] = {work, left}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._metrics.cancelled()
                raise CancelledError("The caller left while the region was analysed.")
            return work.result()
        finally:
            control.cancel()
            left.cancel()

    async def read_native(self, request: Request) -> Order:
        """What one of BentoML's clients orders; see `read_native_order`."""
        return await read_native_order(request, max_bytes=self._settings.max_upload_bytes)

    async def answer_native(self, order: Order, request: Request) -> Response:
        """``{"summary": ..., "cells": <FeatureCollection>}``: what BentoML's clients get."""
        report = await self.analyse(order, request)
        return await self._respond(_encode_native(report), JSON)

    def _require_heatmap(self, order: Order, view: View) -> None:
        """An unknown heatmap is told before the work, not after it."""
        pipeline = self._analyser.pipeline(order.request.pipeline)
        names = [item.name for item in pipeline.heatmaps]
        if view.heatmap is not None and view.heatmap not in names:
            raise UnknownHeatmapError(
                f"The pipeline {pipeline.name!r} has no heatmap {view.heatmap!r}; "
                f"it has {', '.join(names) or 'none'}."
            )
        if view.media_type == PNG and not names:
            raise UnknownHeatmapError(f"The pipeline {pipeline.name!r} has no heatmaps: ask for another answer.")

    async def _respond(self, pieces: Iterator[bytes], media_type: str) -> Response:
        # The first piece is made before the answer begins, so that a failure can still be told.
        first = await self._pool.run(next, pieces, b"")
        headers = {"Vary": "Accept"}
        if media_type == ZIP:
            headers["Content-Disposition"] = 'attachment; filename="slidecascade.zip"'
        return StreamingResponse(self._sent(first, pieces), media_type=media_type, headers=headers)

    async def _sent(self, first: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        seconds = 0.0
        piece: bytes | None = first
        while piece is not None:
            yield piece
            started = time.perf_counter()
            piece = await self._pool.run(next, pieces, None)
            seconds += time.perf_counter() - started
        self._metrics.stage("encode", seconds)


def read_view(request: Request) -> View:
    """What Accept and the query ask for.

    Raises:
        NotAcceptableError: when none of `OFFERS` is acceptable.
        InvalidRequestError: for a query parameter that is unknown, repeated or wrong.
    """
    media_type = choose(",".join(request.headers.getlist("accept")), OFFERS)
    query = request.query_params
    for name in query:
        if name not in ("heatmap", "colormap"):
            raise _wrong("query", "only 'heatmap' and 'colormap' are known here")
        if len(query.getlist(name)) > 1:
            raise _wrong(name, "give it once")
    colormap = query.get("colormap", COLORMAPS[0])
    if colormap not in COLORMAPS:
        raise _wrong("colormap", f"must be one of {', '.join(COLORMAPS)}")
    return View(media_type, query.get("heatmap"), colormap)


def _wrong(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"The query parameter {field!r} is wrong: {message}.", ((field, message),))


async def _until_left(request: Request) -> None:
    """Returns when the caller has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode(report: Report, view: View) -> Iterator[bytes]:
    """The answer, piece by piece; nothing is computed before the first is asked for."""
    from slidecascade.outputs import archive, geojson, heatmap, summary

    analysis = report.analysis
    match view.media_type:
        case "application/geo+json":
            yield from geojson.encode(analysis)
        case "application/json":
            yield summary.summarise(analysis, colormap=view.colormap).model_dump_json().encode()
        case "image/png":
            spec = heatmap.find(analysis, view.heatmap)
            yield heatmap.encode_png(heatmap.compute(analysis, spec), view.colormap)
        case _:
            image, downsample = report.overview(OVERLAY_SIDE_PX)
            yield from archive.encode(analysis, image, downsample=downsample, colormap=view.colormap)


def _encode_native(report: Report) -> Iterator[bytes]:
    from slidecascade.outputs import geojson, summary

    yield b'{"summary":' + summary.summarise(report.analysis).model_dump_json().encode() + b',"cells":'
    yield from geojson.encode(report.analysis)
    yield b"}"
