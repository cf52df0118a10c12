"""The REST API: its routes, its errors, and the one table that gives each error its HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import __version__, errors, wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.jobs.desk import Desk
from slidecascade.metrics import CONTENT_TYPE, Metrics
from slidecascade.outputs.colormap import COLORMAPS
from slidecascade.web.docs import OPENAPI_PATH, docs_router
from slidecascade.web.inference import Inferences
from slidecascade.web.jobs import job_routes
from slidecascade.web.kserve import ERROR_CONTENT, PREFIX, kserve_routes
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.pool import Pool
from slidecascade.web.readiness import Readiness
from slidecascade.web.regions import OFFERS, Regions

LOG = logging.getLogger(__name__)

STATUS: Final[Mapping[type[errors.SlideCascadeError], int]] = {
    errors.MalformedRequestError: 400,
    errors.UnknownSlideError: 404,
    errors.UnknownPipelineError: 404,
    errors.UnknownHeatmapError: 404,
    errors.UnknownModelError: 404,
    errors.UnknownJobError: 404,
    errors.NotAcceptableError: 406,
    errors.SlowRequestError: 408,
    errors.JobNotFinishedError: 409,
    errors.JobFinishedError: 409,
    errors.SlideChangedError: 409,
    errors.ModelChangedError: 409,
    errors.UploadTooLargeError: 413,
    errors.RegionTooLargeError: 413,
    errors.ResultTooLargeError: 413,
    errors.UnsupportedMediaTypeError: 415,
    errors.InvalidRequestError: 422,
    errors.MissingResolutionError: 422,
    errors.ImplausibleResolutionError: 422,
    errors.RegionOutsideSlideError: 422,
    errors.UndecodableImageError: 422,
    errors.UnreadableSlideError: 422,
    errors.MisdirectedRequestError: 421,
    errors.IdempotencyMismatchError: 422,
    errors.OverloadedError: 429,
    errors.CancelledError: 499,  # nobody is there to read it: for the log and the metrics
    errors.TilesFailedError: 500,
    errors.UnreadablePartError: 500,
    errors.ModelFailedError: 502,
    errors.DrainingError: 503,
    errors.NotReadyError: 503,
    errors.DeadlineExceededError: 504,
    errors.StorageFullError: 507,
}
"""Every error a request can end in; one that is missing here is a fault of ours: 500."""


def status_of(problem: str) -> int:
    """The HTTP status of a problem by its name; 500 for one that no request ends in."""
    return next((status for kind, status in STATUS.items() if kind.problem == problem), 500)


@dataclass(frozen=True, slots=True)
class _Http:
    """What an HTTP status of the framework means, where no error of ours says more."""

    problem: str
    title: str
    detail: str


_HTTP: Final[Mapping[int, _Http]] = {
    400: _Http("malformed-request", "Malformed request", "The request could not be read: check its form."),
    404: _Http("not-found", "Not found", "There is nothing at this address: GET /docs lists what there is."),
    405: _Http("method-not-allowed", "Method not allowed", "Use a method that Allow names."),
    413: _Http("upload-too-large", "Upload too large", "Send a smaller body."),
    415: _Http("unsupported-media-type", "Unsupported media type", "Send multipart/form-data or JSON."),
    422: _Http("invalid-request", "Invalid request", "A field of the request is wrong: see /openapi.json."),
    500: _Http(
        "internal-error", "Internal error", "The service failed: tell its operator the request_id to look up."
    ),
    503: _Http("not-ready", "Not ready", "The service is not ready: try again later."),
}


def problem_response(error: Exception, request_id: str) -> Response:
    """The ``application/problem+json`` answer to any error."""
    if isinstance(error, errors.SlideCascadeError) and type(error) in STATUS:
        return _answer_domain_error(error, request_id)
    if isinstance(error, HTTPException):
        return http_problem(error.status_code, request_id, headers=error.headers)
    return http_problem(422 if isinstance(error, RequestValidationError) else 500, request_id)


def http_problem(status: int, request_id: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """The problem for a bare HTTP status; one we have no words for becomes 400 or 500."""
    known = status if status in _HTTP else 400 if status < 500 else 500
    told = _HTTP[known]
    return _response(
        wire.Problem(
            type=wire.PROBLEM_PREFIX + told.problem,
            title=told.title,
            status=known,
            detail=told.detail,
            request_id=request_id,
        ),
        {"Retry-After": "1", **(headers or {})} if known == 503 else headers,
    )


def _answer_domain_error(error: errors.SlideCascadeError, request_id: str) -> Response:
    headers: dict[str, str] = {}
    fields: tuple[wire.FieldError, ...] | None = None
    tiles: tuple[wire.FailedTile, ...] | None = None
    match error:
        case errors.RetryLaterError():
            headers["Retry-After"] = str(error.retry_after_s)
        case errors.InvalidRequestError():
            fields = tuple(wire.FieldError(field=field, message=text) for field, text in error.errors)
        case errors.TilesFailedError():
            tiles = tuple(
                wire.FailedTile(x=x, y=y, width=width, height=height, reason=reason)
                for (x, y, width, height), reason in error.tiles
            )
        case _:
            pass
    problem = wire.Problem(
        type=wire.PROBLEM_PREFIX + error.problem,
        title=error.title,
        status=STATUS[type(error)],
        detail=error.detail,
        request_id=request_id,
        errors=fields,
        tiles=tiles,
    )
    return _response(problem, headers)


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
    readiness: Readiness,
    desk: Desk | None = None,
) -> FastAPI:
    """The API over one analyser; `lookups` runs what may wait for a disk. Without a `desk` it takes no jobs."""
    app = FastAPI(
        title="SlideCascade",
        version=__version__,
        summary=wire.RESEARCH_USE_ONLY,
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI_PATH,
        redirect_slashes=False,
    )
    for kind in (errors.SlideCascadeError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    app.include_router(_region_routes(regions))
    if desk is not None:
        app.include_router(job_routes(desk, lookups, status_of, is_open=lambda: not admission.closed))
    app.include_router(_catalogue_routes(analyser, lookups))
    app.include_router(_operation_routes(metrics, admission, readiness, desk, lookups))
    app.include_router(kserve_routes(analyser, inferences, admission, readiness))
    app.include_router(docs_router(app))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    exchange = Exchange.of(request)
    response = problem_response(error, exchange.request_id)
    if isinstance(error, errors.SlideCascadeError):
        exchange.error = error
    return response


def _region_routes(regions: Regions) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["regions"])

    @router.post(
        "/regions",
        summary="Analyse one region",
        response_class=Response,
        responses=_REGION_RESPONSES,
        openapi_extra=_REGION_REQUEST,
    )
    async def analyse_region(request: Request) -> Response:
        return await regions.answer(request)

    return router


def _catalogue_routes(analyser: Analyser, lookups: Pool) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["catalogue"], responses={404: {"model": wire.Problem}})

    @router.get("/pipelines", summary="List the pipelines")
    async def list_pipelines() -> wire.PipelineList:
        return wire.PipelineList(pipelines=analyser.pipelines())

    @router.get("/pipelines/{name}", summary="Show a pipeline")
    async def show_pipeline(name: str) -> wire.PipelineInfo:
        return analyser.pipeline(name)

    @router.get("/models", summary="List the models")
    async def list_models() -> wire.ModelList:
        return wire.ModelList(models=analyser.models())

    @router.get("/models/{name}", summary="Show a model")
    async def show_model(name: str) -> wire.ModelInfo:
        return analyser.model(name)

    @router.get("/slides", summary="List the slides that can be named in requests")
    async def list_slides() -> wire.SlideList:
        return await lookups.run(analyser.slides)

    # ":path" because an id holds slashes where slides lie in folders.
    @router.get("/slides/{slide_id:path}", summary="Show a slide")
    async def show_slide(slide_id: str) -> wire.SlideInfo:
        return await lookups.run(analyser.slide, slide_id)

    return router


def _operation_routes(
    metrics: Metrics, admission: Admission, readiness: Readiness, desk: Desk | None, lookups: Pool
) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/livez", summary="Whether the process works")
    async def live() -> wire.Health:
        return wire.Health(status="alive")

    @router.get("/readyz", summary="Whether to send requests here", responses={503: {"model": wire.Problem}})
    async def ready() -> wire.Health:
        admission.require_open()
        await readiness.require()
        return wire.Health(status="ready")

    @router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
    async def show_metrics() -> Response:
        await readiness.tell()
        if desk is not None:
            metrics.jobs(await lookups.run(desk.counts))
        return Response(metrics.expose(), media_type=CONTENT_TYPE)

    return router


_PROBLEM_CONTENT: Final = {wire.PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REQUEST_REF: Final = {"$ref": "#/components/schemas/RegionRequest"}
_REGION_REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["request"],
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "PNG, JPEG, TIFF or WebP"},
                        "request": _REQUEST_REF,
                    },
                },
                "encoding": {"request": {"contentType": wire.JSON}},
            },
            wire.JSON: {"schema": _REQUEST_REF},
        },
    },
    "parameters": [
        {"name": "heatmap", "in": "query", "schema": {"type": "string"}, "description": "for image/png"},
        {"name": "colormap", "in": "query", "schema": {"type": "string", "enum": list(COLORMAPS)}},
    ],
}
_REGION_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "What was found, its summary, a heatmap, a table or all of it, as Accept asks.",
        "content": {
            offer: {"schema": {"$ref": "#/components/schemas/Summary"} if offer == wire.JSON else {}}
            for offer in OFFERS
        },
    },
    "default": {"description": "A problem (RFC 9457).", "content": {wire.PROBLEM: {"schema": {}}}},
}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the models it does not see, because those routes read and write bytes themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, extra = models_json_schema(
            [
                (wire.RegionRequest, "validation"),
                (wire.JobRequest, "validation"),
                (wire.Summary, "serialization"),
                (wire.Problem, "serialization"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        schemas = document["components"]["schemas"] | extra["$defs"]
        # What FastAPI would answer to wrong parameters is answered as a problem here.
        document["components"]["schemas"] = {
            name: schema for name, schema in schemas.items() if "ValidationError" not in name
        }
        for path, operations in document["paths"].items():
            error = ERROR_CONTENT if path.startswith(PREFIX) else _PROBLEM_CONTENT
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    if status == "default" or int(status) >= 400:
                        answer["content"] = error
        app.openapi_schema = document
    return app.openapi_schema
