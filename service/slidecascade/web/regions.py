"""Answering a region request: what is wanted, what was sent, the work, the answer in pieces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slidecascade.analysis.analyser import Analyser, Report
from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, DeadlineExceededError, InvalidRequestError
from slidecascade.metrics import Metrics
from slidecascade.outputs import archive, geojson, heatmap, summary
from slidecascade.outputs.gzipped import gzipped
from slidecascade.outputs.heatmap import COLORMAPS, DEFAULT_COLORMAP
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.settings import Settings
from slidecascade.web.encoding import ACCEPT_ENCODING, accepts_gzip
from slidecascade.web.intake import Order, read_native_order, read_order
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.negotiation import choose
from slidecascade.web.pool import Pool
from slidecascade.wire import GEOJSON, JSON, PNG, ZIP

P = ParamSpec("P")
T = TypeVar("T")

_PACKED: Final = (GEOJSON, JSON)
"""What gains from gzip: the others are packed already."""

OFFERS: Final = (GEOJSON, JSON, PNG, ZIP)
_UNWIND_S: Final = 0.5
"""After the deadline, how long work may take to notice it and to end by itself, before it is answered for."""


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
        metrics.memory_limit(analyser.memory.total)
        self._pool = Pool(settings.max_regions_in_flight, name="region")

    def close(self) -> None:
        self._pool.close()

    async def answer(self, request: Request) -> Response:
        """The answer to ``POST /v1/regions``."""
        view = read_view(request)
        settings = self._settings
        order = await read_order(request, max_bytes=settings.max_upload_bytes, max_s=settings.max_deadline_s)
        Exchange.of(request).place.enter()
        self._require_heatmap(order, view)
        limit_s = self._limit_s(order)
        side_px = MAX_SIDE_PX if view.media_type == ZIP else 0
        report = await self._analyse(order, request, limit_s=limit_s, overview_side_px=side_px)
        return await self._respond(_encode(report, view), view.media_type, request, limit_s=limit_s)

    async def read_native(self, request: Request) -> Order:
        """What one of BentoML's clients orders; see `read_native_order`."""
        settings = self._settings
        order = await read_native_order(
            request, max_bytes=settings.max_upload_bytes, max_s=settings.max_deadline_s
        )
        Exchange.of(request).place.enter()
        return order

    async def answer_native(self, order: Order, request: Request) -> Response:
        """``{"summary": ..., "cells": <FeatureCollection>}``: what BentoML's clients get."""
        limit_s = self._limit_s(order)
        report = await self._analyse(order, request, limit_s=limit_s, overview_side_px=0)
        return await self._respond(_encode_native(report), JSON, request, limit_s=limit_s)

    def _limit_s(self, order: Order) -> float:
        """How long the region may take, counted from its admission: the time the upload took is part of it."""
        return min(order.request.deadline_s or self._settings.max_deadline_s, self._settings.max_deadline_s)

    async def _analyse(self, order: Order, request: Request, *, limit_s: float, overview_side_px: int) -> Report:
        """The analysis; raises what `_outcome` and `Analyser.analyse` raise."""
        control = Control(deadline_s=max(limit_s - Exchange.of(request).seconds, 0.0))
        share = self._analyser.memory.share()
        Exchange.of(request).place.release = share.release
        work = self._begin(
            request,
            self._analyser.analyse,
            order.request,
            order.image,
            control,
            share=share,
            overview_side_px=overview_side_px,
        )
        try:
            return await self._outcome(work, request, limit_s=limit_s)
        finally:
            control.cancel()

    def _begin(
        self, request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Begin `work` in a thread, which keeps the request's place until it ends."""
        begun = self._pool.submit(work, *args, **kwargs)
        Exchange.of(request).place.work = begun
        return begun

    async def _outcome(self, work: asyncio.Future[T], request: Request, *, limit_s: float) -> T:
        """What `work` returns or raises; it is left behind when its time is up or the caller leaves.

        Raises:
            DeadlineExceededError: `limit_s` seconds after the request began.
            CancelledError: when the caller leaves.
        """
        left_s = max(limit_s - Exchange.of(request).seconds, 0.0)
        left = asyncio.ensure_future(wait_for_disconnect(request))
        first: set[asyncio.Future[Any]] = {work, left}
        try:
            await asyncio.wait(first, timeout=left_s + _UNWIND_S, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if left.done():
                self._metrics.cancelled()
                raise CancelledError("The caller left while the region was analysed.")
            raise DeadlineExceededError(
                f"The region was not done within {limit_s:g} s: send a smaller region or a longer deadline_s."
            )
        finally:
            left.cancel()

    def _require_heatmap(self, order: Order, view: View) -> None:
        """An unknown heatmap is told before the work, not after it."""
        pipeline = self._analyser.pipeline(order.request.pipeline)
        if view.heatmap is not None or view.media_type == PNG:
            names = [item.name for item in pipeline.heatmaps]
            heatmap.require_name(view.heatmap, names, pipeline=pipeline.name)

    async def _respond(
        self, pieces: Iterator[bytes], media_type: str, request: Request, *, limit_s: float
    ) -> Response:
        headers = {"Vary": f"Accept, {ACCEPT_ENCODING}"}
        if media_type in _PACKED and accepts_gzip(",".join(request.headers.getlist(ACCEPT_ENCODING))):
            pieces = gzipped(pieces)
            headers["Content-Encoding"] = "gzip"
        pieces = self._timed(pieces)
        # The first piece is made before the answer begins, so that a failure can still be told.
        first = await self._outcome(self._begin(request, next, pieces, b""), request, limit_s=limit_s)
        if media_type == ZIP:
            headers["Content-Disposition"] = 'attachment; filename="slidecascade.zip"'
        return StreamingResponse(self._sent(first, pieces, request), media_type=media_type, headers=headers)

    async def _sent(self, first: bytes, pieces: Iterator[bytes], request: Request) -> AsyncIterator[bytes]:
        piece: bytes | None = first
        while piece is not None:
            yield piece
            work = self._begin(request, next, pieces, None)
            await asyncio.wait({work})  # not the work itself: were the answer broken off, it would look ended
            piece = work.result()

    def _timed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """`pieces`; when they end, the time it took to make all of them is noted."""
        seconds = 0.0
        while True:
            started = time.perf_counter()
            piece = next(pieces, None)
            seconds += time.perf_counter() - started
            if piece is None:
                break
            yield piece
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
    colormap = query.get("colormap", DEFAULT_COLORMAP)
    if colormap not in COLORMAPS:
        raise _wrong("colormap", f"must be one of {', '.join(COLORMAPS)}")
    return View(media_type, query.get("heatmap"), colormap)


def _wrong(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"The query parameter {field!r} is wrong: {message}.", ((field, message),))


async def wait_for_disconnect(request: Request) -> None:
    """Returns when the caller has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode(report: Report, view: View) -> Iterator[bytes]:
    """The answer, piece by piece; nothing is computed before the first is asked for."""
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
            image, downsample = report.overview(MAX_SIDE_PX)
            yield from archive.encode(analysis, image, downsample=downsample, colormap=view.colormap)


def _encode_native(report: Report) -> Iterator[bytes]:
    yield b'{"summary":' + summary.summarise(report.analysis).model_dump_json().encode() + b',"cells":'
    yield from geojson.encode(report.analysis)
    yield b"}"
