"""Handles a region request: negotiation, parsing, analysis, and the response in chunks."""

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
from slidecascade.outputs.encoders import PARTS, STYLES, Drawing, Part, Style
from slidecascade.outputs.gzipped import gzipped
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.settings import Settings
from slidecascade.web.encoding import ACCEPT_ENCODING, accepts_gzip
from slidecascade.web.intake import Order, read_native_order, read_order
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.negotiation import choose
from slidecascade.web.pool import Pool
from slidecascade.wire import COMPRESSIBLE, JSON, MAX_NAME, PNG, ZIP

P = ParamSpec("P")
T = TypeVar("T")

OFFERS: Final = offers(KINDS)
"""Media types of results, over all kinds of pipelines."""

_UNWIND_S: Final = 0.5
"""Time after the deadline for work to stop by itself; then the request fails while the thread still runs."""


@dataclass(frozen=True, slots=True)
class View:
    """The requested result: the media type of the Accept header, and the options of heatmaps."""

    accept: str
    drawing: Drawing


class Regions:
    """Parses region requests, runs them in separate threads, and responds."""

    def __init__(self, analyser: Analyser, settings: Settings, metrics: Metrics) -> None:
        self._analyser = analyser
        self._settings = settings
        self._metrics = metrics
        metrics.memory_limit(analyser.memory.total)
        self._pool = Pool(settings.max_regions_in_flight, name="region")

    def close(self) -> None:
        self._pool.close()

    async def answer(self, request: Request) -> Response:
        """The response to ``POST /v1/regions``."""
        view = read_view(request)
        settings = self._settings
        order = await read_order(request, max_bytes=settings.max_upload_bytes, max_s=settings.max_deadline_s)
        Exchange.of(request).place.enter()
        encoders = self._analyser.encoders(order.request.pipeline)
        media_type = choose(view.accept, encoders.offers)
        self._require_heatmap(order, media_type, view.drawing)
        limit_s = self._limit_s(order)
        drawn_px = figure.LONGEST_PX if media_type == PNG and view.drawing.style == "figure" else 0
        side_px = MAX_SIDE_PX if media_type == ZIP and view.drawing.shows_tissue else drawn_px
        report = await self._analyse(order, request, limit_s=limit_s, overview_side_px=side_px)
        pieces = encoders.encode(media_type, report.analysis, report.overview, view.drawing)
        return await self._respond(pieces, media_type, request, limit_s=limit_s)

    async def read_native(self, request: Request) -> Order:
        """The request of a BentoML client; see `read_native_order`."""
        settings = self._settings
        order = await read_native_order(
            request, max_bytes=settings.max_upload_bytes, max_s=settings.max_deadline_s
        )
        Exchange.of(request).place.enter()
        return order

    async def answer_native(self, order: Order, request: Request) -> Response:
        """``{"summary": ..., "cells": <FeatureCollection>}``: the response to BentoML's clients."""
        limit_s = self._limit_s(order)
        report = await self._analyse(order, request, limit_s=limit_s, overview_side_px=0)
        encoders = self._analyser.encoders(order.request.pipeline)
        return await self._respond(encoders.native(report.analysis), JSON, request, limit_s=limit_s)

    def _limit_s(self, order: Order) -> float:
        """Maximum seconds for the region, counted from its admission and including the upload."""
        return min(order.request.deadline_s or self._settings.max_deadline_s, self._settings.max_deadline_s)

    async def _analyse(self, order: Order, request: Request, *, limit_s: float, overview_side_px: int) -> Report:
        """The analysis; raises the errors of `_outcome` and `Analyser.analyse`."""
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
            visible=caller_of(request).visible,
        )
        Exchange.of(request).object = order.request.slide
        try:
            report = await self._outcome(work, request, limit_s=limit_s)
        finally:
            control.cancel()
        Exchange.of(request).object = order.request.slide or report.analysis.facts.content_id
        return report

    def _begin(
        self, request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Start `work` in a thread, which keeps the request's slot until it ends."""
        begun = self._pool.submit(work, *args, **kwargs)
        Exchange.of(request).place.work = begun
        return begun

    async def _outcome(self, work: asyncio.Future[T], request: Request, *, limit_s: float) -> T:
        """The result of `work`, which is abandoned after the deadline or when the client disconnects.

        Raises:
            DeadlineExceededError: `limit_s` seconds after the start of the request.
            CancelledError: when the client disconnects.
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
                raise CancelledError("The client disconnected during the analysis of the region.")
            raise DeadlineExceededError(
                f"The region was not finished within {limit_s:g} s: send a smaller region or a longer deadline_s."
            )
        finally:
            left.cancel()

    def _require_heatmap(self, order: Order, media_type: str, drawing: Drawing) -> None:
        """Validate the heatmap's name before the analysis."""
        pipeline = self._analyser.pipeline(order.request.pipeline)
        if drawing.heatmap is not None or media_type == PNG:
            names = [item.name for item in pipeline.heatmaps]
            heatmap.require_name(drawing.heatmap, names, pipeline=pipeline.name)

    async def _respond(
        self, pieces: Iterator[bytes], media_type: str, request: Request, *, limit_s: float
    ) -> Response:
        headers = {"Vary": f"Accept, {ACCEPT_ENCODING}"}
        if media_type in COMPRESSIBLE and accepts_gzip(",".join(request.headers.getlist(ACCEPT_ENCODING))):
            pieces = gzipped(pieces)
            headers["Content-Encoding"] = "gzip"
        pieces = self._timed(pieces)
        # The first chunk is made before the response starts, so that an error can still get its status.
        first = await self._outcome(self._begin(request, next, pieces, b""), request, limit_s=limit_s)
        if media_type == ZIP:
            headers["Content-Disposition"] = 'attachment; filename="slidecascade.zip"'
        return StreamingResponse(self._sent(first, pieces, request), media_type=media_type, headers=headers)

    async def _sent(self, first: bytes, pieces: Iterator[bytes], request: Request) -> AsyncIterator[bytes]:
        piece: bytes | None = first
        while piece is not None:
            yield piece
            work = self._begin(request, next, pieces, None)
            await asyncio.wait(
                {work}
            )  # not the work itself: after an interrupted response it would appear to have ended
            piece = work.result()

    def _timed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """`pieces`; afterwards the time to produce them is recorded."""
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
    """The requested result by Accept and query.

    Raises:
        NotAcceptableError: when none of `OFFERS` is acceptable; the pipeline's kind may offer fewer.
        InvalidRequestError: for an unknown, repeated or invalid query parameter.
    """
    accept = ",".join(request.headers.getlist("accept"))
    choose(accept, OFFERS)
    query = request.query_params
    for name in query:
        if name not in ("heatmap", "colormap", "style", "without"):
            raise _wrong(name[:MAX_NAME], "unknown, use 'heatmap', 'colormap', 'style' or 'without'")
        if len(query.getlist(name)) > 1:
            raise _wrong(name, "repeated: send it once")
    colormap = Colormap.parse(query.get("colormap", Colormap.VIRIDIS))
    without = frozenset(_part(name) for name in query["without"].split(",")) if "without" in query else frozenset()
    return View(accept, Drawing(query.get("heatmap"), colormap, _style(query.get("style", "map")), without))


def _part(name: str) -> Part:
    for part in PARTS:
        if part == name:
            return part
    raise _wrong("without", f"must name pictures of the zip, separated by commas: {', '.join(PARTS)}")


def _style(name: str) -> Style:
    for style in STYLES:
        if style == name:
            return style
    raise _wrong("style", f"must be one of {', '.join(STYLES)}")


def _wrong(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"The query parameter {field!r} is invalid: {message}.", ((field, message),))


async def wait_for_disconnect(request: Request) -> None:
    """Wait until the client disconnects; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
