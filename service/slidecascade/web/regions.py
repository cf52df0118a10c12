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
from slidecascade.kinds.table import KINDS, offers
from slidecascade.metrics import Metrics
from slidecascade.outputs import figure, heatmap
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import STYLES, Drawing, Style
from slidecascade.outputs.gzipped import gzipped
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.settings import Settings
from slidecascade.web.encoding import ACCEPT_ENCODING, accepts_gzip
from slidecascade.web.intake import Order, read_native_order, read_order
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.negotiation import choose
from slidecascade.web.pool import Pool
from slidecascade.wire import CSV, GEOJSON, JSON, PNG, ZIP

P = ParamSpec("P")
T = TypeVar("T")

_PACKED: Final = (GEOJSON, JSON, CSV)
"""What gains from gzip: the others are packed already."""

OFFERS: Final = offers(KINDS)
"""What one kind of pipeline or another can be answered as."""

_UNWIND_S: Final = 0.5
"""After the deadline, how long work may take to notice it and to end by itself, before it is answered for."""


@dataclass(frozen=True, slots=True)
class View:
    """What of an analysis is wanted: what the Accept header says, and how heatmaps are drawn."""

    accept: str
    drawing: Drawing


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
        encoders = self._analyser.encoders(order.request.pipeline)
        media_type = choose(view.accept, encoders.offers)
        self._require_heatmap(order, media_type, view.drawing)
        limit_s = self._limit_s(order)
        drawn_px = figure.LONGEST_PX if media_type == PNG and view.drawing.style == "figure" else 0
        side_px = MAX_SIDE_PX if media_type == ZIP else drawn_px
        report = await self._analyse(order, request, limit_s=limit_s, overview_side_px=side_px)
        pieces = encoders.encode(media_type, report.analysis, report.overview, view.drawing)
        return await self._respond(pieces, media_type, request, limit_s=limit_s)

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
        encoders = self._analyser.encoders(order.request.pipeline)
        return await self._respond(encoders.native(report.analysis), JSON, request, limit_s=limit_s)

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

    def _require_heatmap(self, order: Order, media_type: str, drawing: Drawing) -> None:
        """An unknown heatmap is reported before the work, not after it."""
        pipeline = self._analyser.pipeline(order.request.pipeline)
        if drawing.heatmap is not None or media_type == PNG:
            names = [item.name for item in pipeline.heatmaps]
            heatmap.require_name(drawing.heatmap, names, pipeline=pipeline.name)

    async def _respond(
        self, pieces: Iterator[bytes], media_type: str, request: Request, *, limit_s: float
    ) -> Response:
        headers = {"Vary": f"Accept, {ACCEPT_ENCODING}"}
        if media_type in _PACKED and accepts_gzip(",".join(request.headers.getlist(ACCEPT_ENCODING))):
            pieces = gzipped(pieces)
            headers["Content-Encoding"] = "gzip"
        pieces = self._timed(pieces)
        # The first piece is made before the answer begins, so that a failure can still be reported.
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
        NotAcceptableError: when none of `OFFERS` is acceptable; which of them there are depends on the pipeline.
        InvalidRequestError: for a query parameter that is unknown, repeated or wrong.
    """
    accept = ",".join(request.headers.getlist("accept"))
    choose(accept, OFFERS)
    query = request.query_params
    for name in query:
        if name not in ("heatmap", "colormap", "style"):
            raise _wrong("query", "only 'heatmap', 'colormap' and 'style' are known here")
        if len(query.getlist(name)) > 1:
            raise _wrong(name, "give it once")
    colormap = Colormap.parse(query.get("colormap", Colormap.VIRIDIS))
    return View(accept, Drawing(query.get("heatmap"), colormap, _style(query.get("style", "map"))))


def _style(name: str) -> Style:
    for style in STYLES:
        if style == name:
            return style
    raise _wrong("style", f"must be one of {', '.join(STYLES)}")


def _wrong(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"The query parameter {field!r} is wrong: {message}.", ((field, message),))


async def wait_for_disconnect(request: Request) -> None:
    """Returns when the caller has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
