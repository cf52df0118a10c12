"""The REST API: its routes and its errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from slidecascade import __version__, errors, wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.jobs.desk import Desk
from slidecascade.metrics import CONTENT_TYPE, Metrics
from slidecascade.slides.deepzoom import DeepZoom
from slidecascade.web.crops import crop_routes
from slidecascade.web.docs import OPENAPI_PATH, docs_router
from slidecascade.web.document import REGION_REQUEST, REGION_RESPONSES, describe
from slidecascade.web.inference import Inferences
from slidecascade.web.jobs import job_routes
from slidecascade.web.kserve import kserve_routes
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.pictures import picture_routes
from slidecascade.web.pool import Pool
from slidecascade.web.readiness import Readiness
from slidecascade.web.regions import Regions
from slidecascade.web.slidelist import slide_list_routes
from slidecascade.web.statuses import STATUS, problems, status_of
from slidecascade.web.submission import Submissions
from slidecascade.web.translation import translation_routes
from slidecascade.web.viewer import viewer_routes

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Http:
    """Problems for HTTP statuses of the framework."""

    problem: str
    title: str
    detail: str


_HTTP: Final[Mapping[int, _Http]] = {
    400: _Http("malformed-request", "Malformed request", "The request could not be parsed: check its format."),
    404: _Http("not-found", "Not found", "There is no resource at this address: see GET /docs for the routes."),
    405: _Http("method-not-allowed", "Method not allowed", "Use a method that the Allow header lists."),
    413: _Http("upload-too-large", "Upload too large", "Send a smaller body."),
    415: _Http("unsupported-media-type", "Unsupported media type", "Send multipart/form-data or JSON."),
    416: _Http("range-not-satisfiable", "Range not satisfiable", "The file ends before that: see Content-Range."),
    422: _Http("invalid-request", "Invalid request", "A field of the request is invalid: see /openapi.json."),
    500: _Http("internal-error", "Internal error", "The service failed: report the request_id to its operator."),
    503: _Http("not-ready", "Not ready", "The service is not ready: try again later."),
}


def problem_response(error: Exception, request_id: str) -> Response:
    """The ``application/problem+json`` response for an error."""
    if isinstance(error, errors.SlideCascadeError) and type(error) in STATUS:
        return _answer_domain_error(error, request_id)
    if isinstance(error, HTTPException):
        return http_problem(error.status_code, request_id, headers=error.headers)
    return http_problem(500, request_id)


def http_problem(status: int, request_id: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """The problem for an HTTP status; a status without an entry becomes 400 or 500."""
    known = status if status in _HTTP else 400 if status < 500 else 500
    entry = _HTTP[known]
    return _response(
        wire.Problem(
            type=wire.PROBLEM_PREFIX + entry.problem,
            title=entry.title,
            status=known,
            detail=entry.detail,
            request_id=request_id,
        ),
        {"Retry-After": "1", **(headers or {})} if known == 503 else headers,
    )


def _answer_domain_error(error: errors.SlideCascadeError, request_id: str) -> Response:
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, errors.RetryLaterError) else {}
    response = _response(domain_problem(error, request_id), headers)
    if isinstance(error, errors.UnauthenticatedError):
        for challenge in error.challenges:
            response.headers.append("WWW-Authenticate", challenge)
    return response


def domain_problem(error: errors.SlideCascadeError, request_id: str) -> wire.Problem:
    """The problem of an error; one without a status is an internal error."""
    fields: tuple[wire.FieldError, ...] | None = None
    tiles: tuple[wire.FailedTile, ...] | None = None
    match error:
        case errors.InvalidRequestError():
            fields = tuple(wire.FieldError(field=field, message=text) for field, text in error.errors)
        case errors.TilesFailedError():
            tiles = tuple(
                wire.FailedTile(x=x, y=y, width=width, height=height, reason=reason)
                for (x, y, width, height), reason in error.tiles
            )
        case _:
            pass
    return wire.Problem(
        type=wire.PROBLEM_PREFIX + error.problem,
        title=error.title,
        status=STATUS.get(type(error), 500),
        detail=error.detail,
        request_id=request_id,
        errors=fields,
        tiles=tiles,
    )


def _response(problem: wire.Problem, headers: Mapping[str, str] | None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=wire.PROBLEM,
    )


def create_app(
    analyser: Analyser,
    regions: Regions,
    inferences: Inferences,
    *,
    metrics: Metrics,
    admission: Admission,
    lookups: Pool,
    pictures: Pool,
    readiness: Readiness,
    is_keyed: bool,
    max_mask_px: int,
    desk: Desk | None = None,
    submissions: Submissions | None = None,
) -> FastAPI:
    """The API for one analyser; `lookups` runs blocking disk access, `pictures` opens slides, which may
    take long, and makes tiles of them.

    `is_keyed` states in the document that requests need keys or tokens. Without a `desk` and the `submissions` to
    it, it accepts no jobs.
    """
    app = FastAPI(
        title="SlideCascade",
        version=__version__,
        summary=wire.RESEARCH_USE_ONLY,
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI_PATH,
        redirect_slashes=False,
    )
    deepzoom = DeepZoom()
    routers = [
        _region_routes(regions),
        slide_list_routes(analyser, deepzoom, lookups, pictures, domain_problem),
        # Before the catalogue, where the id of a slide takes all that follows.
        picture_routes(analyser, deepzoom, pictures),
        crop_routes(analyser, pictures),
        _catalogue_routes(analyser, pictures),
        _operation_routes(metrics, admission, readiness, desk, lookups),
        kserve_routes(analyser, inferences, admission, readiness),
        translation_routes(analyser, inferences, max_px=max_mask_px),
        docs_router(app),
        viewer_routes(),
    ]
    if desk is not None and submissions is not None:
        routers.append(
            job_routes(
                desk,
                submissions,
                lookups,
                pictures,
                status_of,
                domain_problem,
                is_open=lambda: not admission.closed,
            )
        )
    for router in routers:
        app.include_router(router)
    answer_error = partial(_answer_error, [route for router in routers for route in router.routes])
    for kind in (errors.SlideCascadeError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer_error)
    app.openapi = lambda: describe(app, is_keyed=is_keyed)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


async def _answer_error(routes: Sequence[BaseRoute], request: Request, error: Exception) -> Response:
    exchange = Exchange.of(request)
    if isinstance(error, RequestValidationError):
        error = _refusal(error)
    elif isinstance(error, HTTPException) and error.status_code == 405:
        error = HTTPException(405, headers={"Allow": ", ".join(sorted(_methods(routes, request.scope)))})
    response = problem_response(error, exchange.request_id)
    if isinstance(error, errors.SlideCascadeError):
        exchange.error = error
    return response


def _refusal(error: RequestValidationError) -> errors.InvalidRequestError:
    """FastAPI's error about parameters as ours; the values sent are not repeated."""
    wrong = tuple((str(item["loc"][-1]), str(item["msg"])) for item in error.errors()[: wire.MAX_ERRORS])
    field, message = wrong[0]
    return errors.InvalidRequestError(f"The parameter {field!r} is invalid: {message}.", wrong)


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> set[str]:
    """The methods of all routes that `scope` leads to; the framework names those of the first."""
    found = [route for route in routes if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE]
    return {method for route in found for method in route.methods or ()}


def _region_routes(regions: Regions) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["regions"])

    @router.post(
        "/regions",
        summary="Analyse one region",
        response_class=Response,
        responses=REGION_RESPONSES,
        openapi_extra=REGION_REQUEST,
    )
    async def analyse_region(request: Request) -> Response:
        return await regions.answer(request)

    return router


def _catalogue_routes(analyser: Analyser, pictures: Pool) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["catalogue"])

    @router.get("/pipelines", summary="List the pipelines")
    async def list_pipelines() -> wire.PipelineList:
        return wire.PipelineList(pipelines=analyser.pipelines())

    @router.get("/pipelines/{name}", summary="Show a pipeline", responses=problems(errors.UnknownPipelineError))
    async def show_pipeline(name: str) -> wire.PipelineInfo:
        return analyser.pipeline(name)

    @router.get("/models", summary="List the models")
    async def list_models() -> wire.ModelList:
        return wire.ModelList(models=analyser.models())

    @router.get("/models/{name}", summary="Show a model", responses=problems(errors.UnknownModelError))
    async def show_model(name: str) -> wire.ModelInfo:
        return analyser.model(name)

    # ":path" because the ids of slides in folders contain slashes.
    @router.get(
        "/slides/{slide_id:path}",
        summary="Show a slide",
        responses=problems(errors.UnknownSlideError, errors.UnreadableSlideError, errors.NotReadyError),
    )
    async def show_slide(slide_id: str, request: Request) -> wire.SlideInfo:
        return await pictures.run(analyser.slide, slide_id, caller_of(request).visible)

    return router


def _operation_routes(
    metrics: Metrics, admission: Admission, readiness: Readiness, desk: Desk | None, lookups: Pool
) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/livez", summary="Check that the process is alive")
    async def live() -> wire.Health:
        return wire.Health(status="alive")

    @router.get(
        "/readyz",
        summary="Check that the service can accept requests",
        responses=problems(errors.NotReadyError, errors.DrainingError),
    )
    async def ready() -> wire.Health:
        admission.require_open()
        await readiness.require()
        return wire.Health(status="ready")

    @router.get("/metrics", summary="Metrics in the format of Prometheus", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        await readiness.update_gauge()
        if desk is not None and (numbers := await lookups.run(desk.numbers)) is not None:
            metrics.jobs(numbers)
        return Response(metrics.expose(), media_type=CONTENT_TYPE)

    return router
