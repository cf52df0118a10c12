"""The OpenAPI document: FastAPI's, with the bodies that routes read themselves and all that they answer."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from slidecascade import errors, wire
from slidecascade.outputs.colormap import COLORMAPS
from slidecascade.outputs.encoders import PARTS, STYLES
from slidecascade.web.entry import ALWAYS_OPEN
from slidecascade.web.kserve import ERROR_CONTENT, PREFIX
from slidecascade.web.regions import OFFERS
from slidecascade.web.routescopes import OPEN, needed
from slidecascade.web.statuses import Responses, problems
from slidecascade.web.tensors import InferRequest

_PROBLEM_CONTENT: Final = {wire.PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REQUEST_REF: Final = {"$ref": "#/components/schemas/RegionRequest"}
_WITH_SLIDE: Final[dict[str, Any]] = {
    "allOf": [_REQUEST_REF, {"required": ["slide"], "properties": {"slide": {"type": "string"}}}]
}
"""A region request that names a slide, as it must where there is no image."""

REGION_REQUEST: Final[dict[str, Any]] = {
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
                    "anyOf": [{"required": ["image"]}, {"properties": {"request": _WITH_SLIDE}}],
                },
                "encoding": {"request": {"contentType": wire.JSON}},
            },
            wire.JSON: {"schema": _WITH_SLIDE},
        },
    },
    "parameters": [
        {"name": "heatmap", "in": "query", "schema": {"type": "string"}, "description": "for image/png"},
        {"name": "colormap", "in": "query", "schema": {"type": "string", "enum": list(COLORMAPS)}},
        {"name": "style", "in": "query", "schema": {"type": "string", "enum": list(STYLES)}},
        {
            "name": "without",
            "in": "query",
            "schema": {"type": "array", "items": {"type": "string", "enum": list(PARTS)}, "minItems": 1},
            "style": "form",
            "explode": False,
            "description": "pictures that application/zip leaves out",
        },
    ],
}
REGION_RESPONSES: Final[Responses] = {
    200: {
        "description": "What was found, its summary, a heatmap, a table or all of it, as Accept asks.",
        "content": {
            offer: {"schema": {"$ref": "#/components/schemas/Summary"} if offer == wire.JSON else {}}
            for offer in OFFERS
        },
    },
    **problems(
        errors.MalformedRequestError,
        errors.UnknownSlideError,
        errors.UnknownPipelineError,
        errors.UnknownHeatmapError,
        errors.UnknownChannelError,
        errors.NotAcceptableError,
        errors.UploadTooLargeError,
        errors.RegionTooLargeError,
        errors.UnsupportedMediaTypeError,
        errors.InvalidRequestError,
        errors.MissingResolutionError,
        errors.ImplausibleResolutionError,
        errors.UnusableStainError,
        errors.RegionOutsideSlideError,
        errors.UndecodableImageError,
        errors.UnreadableSlideError,
        errors.OverloadedError,
        errors.TilesFailedError,
        errors.ModelFailedError,
        errors.NotReadyError,
        errors.DeadlineExceededError,
    ),
}

_EVERYWHERE: Final = (errors.MalformedRequestError, errors.MisdirectedRequestError, errors.SlideCascadeError)
"""What a request to any address may end in; the last stands for faults."""

_KEYED: Final = (errors.UnauthenticatedError, errors.ForbiddenError, errors.LimitExceededError)
"""What a request to any address may end in that needs a key."""

_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key, or a token (JWT) of the issuer that the operator has configured.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_READ_BY_ROUTES: Final[tuple[type[BaseModel], ...]] = (
    wire.RegionRequest,
    wire.JobRequest,
    wire.JobOrder,
    InferRequest,
)
_WRITTEN_BY_ROUTES: Final[tuple[type[BaseModel], ...]] = (wire.Summary, wire.Problem)


def describe(app: FastAPI, *, is_keyed: bool) -> dict[str, Any]:
    """The document of the routes of `app`, made once; `is_keyed` states that they need keys or tokens."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        models = [(model, "validation") for model in _READ_BY_ROUTES]
        models += [(model, "serialization") for model in _WRITTEN_BY_ROUTES]
        _, extra = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        schemas = document["components"]["schemas"] | extra["$defs"]
        # What FastAPI would answer to wrong parameters is answered as a problem here.
        document["components"]["schemas"] = {
            name: schema for name, schema in schemas.items() if "ValidationError" not in name
        }
        if is_keyed:
            document["components"]["securitySchemes"] = _SCHEMES
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                operation["security"] = _security(method, path) if is_keyed else []
                operation["responses"] = _responses(path, operation)
                _close_forms(operation)
        _link_jobs(document["paths"])
        app.openapi_schema = document
    return app.openapi_schema


def _link_jobs(paths: dict[str, Any]) -> None:
    """State that the id of a submitted job is what the operations on a job take."""
    links = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"job_id": "$response.body#/id"},
        }
        for path, operations in paths.items()
        for operation in operations.values()
        if path.startswith("/v1/jobs/{job_id}")
    }
    for status, answer in paths["/v1/jobs"]["post"]["responses"].items() if links else ():
        if status in ("200", "202"):
            answer["links"] = links


def _responses(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """The responses of an operation, completed by those that every address has, in the order of their status."""
    found = {str(status): answer for status, answer in operation["responses"].items()}
    if _is_automatic(found.get("422")):
        del found["422"]
    if any(map(_is_checked, operation.get("parameters", ()))):
        found = _united(found, problems(errors.InvalidRequestError))
    found = _united(found, _general(path))
    content = ERROR_CONTENT if path.startswith(PREFIX) else _PROBLEM_CONTENT
    for status, answer in found.items():
        if int(status) >= 400:
            answer["content"] = content
    return dict(sorted(found.items()))


def _general(path: str) -> Responses:
    kinds = _EVERYWHERE if path in ALWAYS_OPEN else (*_EVERYWHERE, errors.DrainingError)
    return problems(*kinds, *(() if path in OPEN else _KEYED))


def _security(method: str, path: str) -> list[dict[str, list[str]]]:
    """The ways to say who calls, any of which is enough; the scope is that of the table."""
    scope = needed(method.upper(), path)
    return [] if scope is None else [{scheme: [scope]} for scheme in _SCHEMES]


def _united(found: dict[str, Any], more: Responses) -> dict[str, Any]:
    """`found` with `more`; where both have a status, its description names what either does."""
    united = {status: dict(answer) for status, answer in found.items()}
    for status, answer in more.items():
        known = united.setdefault(str(status), answer)["description"]
        if answer["description"] not in known:
            united[str(status)]["description"] = f"{known} or {answer['description']}"
    return united


def _is_checked(parameter: dict[str, Any]) -> bool:
    """Whether there are wrong values of a parameter: any text is a name in a path."""
    is_text = parameter["schema"].get("type") == "string"
    return parameter["in"] == "query" or (parameter["in"] == "path" and not is_text)


def _close_forms(operation: dict[str, Any]) -> None:
    """State that a form has no other parts."""
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data")
    if form is not None:
        form["schema"].setdefault("additionalProperties", False)


def _is_automatic(answer: dict[str, Any] | None) -> bool:
    """Whether it is FastAPI's own about parameters, which it adds where there are any, text included."""
    return answer is not None and "HTTPValidationError" in str(answer.get("content"))
