"""The Open Inference Protocol (KServe v2) under ``/v2``, usable by Triton's clients."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope, Send

from slidecascade import __version__
from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import (
    DeadlineExceededError,
    DrainingError,
    MalformedRequestError,
    ModelFailedError,
    NotReadyError,
    OverloadedError,
    UnknownModelError,
    UnsupportedMediaTypeError,
    UploadTooLargeError,
)
from slidecascade.models.repository import ModelPackage
from slidecascade.web.inference import BINARY, JSON_LENGTH, Inferences
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.readiness import Readiness
from slidecascade.web.statuses import problems
from slidecascade.web.tensors import metadata
from slidecascade.web.translation import PATH as TRANSLATE
from slidecascade.wire import JSON, PROBLEM

PREFIX: Final = "/v2"
ERROR_CONTENT: Final[dict[str, Any]] = {
    JSON: {"schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}}
}
"""The protocol's errors in the OpenAPI document."""

_MODEL: Final = "/models/{name}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"
_SHOW: Final[dict[str, Any]] = {
    "summary": "Show the inputs and outputs of a model",
    "responses": problems(UnknownModelError),
}
_READY: Final[dict[str, Any]] = {
    "summary": "Check that a model can be run",
    "responses": problems(UnknownModelError, NotReadyError),
}
_REQUEST_SCHEMA: Final = {"$ref": "#/components/schemas/InferRequest"}
_INFER: Final[dict[str, Any]] = {
    "summary": "Run a model on tensors",
    "response_class": Response,
    "responses": {
        200: {
            "description": "The outputs, as JSON, or as JSON with the binary data of tensors behind it.",
            "content": {JSON: {"schema": {"type": "object"}}, BINARY: {"schema": {}}},
        },
        **problems(
            MalformedRequestError,
            UnknownModelError,
            UploadTooLargeError,
            UnsupportedMediaTypeError,
            OverloadedError,
            ModelFailedError,
            NotReadyError,
            DeadlineExceededError,
        ),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "JSON; binary data of tensors may follow it.",
            "content": {JSON: {"schema": _REQUEST_SCHEMA}},
        },
        "parameters": [
            {
                "name": JSON_LENGTH,
                "in": "header",
                "schema": {"type": "integer", "minimum": 0},
                "description": "Bytes of the JSON, where binary data follow it; at most all of the body.",
            }
        ],
    },
}

_BAD_REQUEST, _UNPROCESSABLE = 400, 422
_INFER_PATH: Final = re.compile(rf"{PREFIX}/models/[^/]+(/versions/[^/]+)?/infer")


def kserve_routes(
    analyser: Analyser, inferences: Inferences, admission: Admission, readiness: Readiness
) -> APIRouter:
    """The routes of the protocol; `in_protocol` converts errors to its format."""
    router = APIRouter(prefix=PREFIX, tags=["inference protocol"])

    @router.get("", summary="Show the server's metadata")
    async def server() -> dict[str, Any]:
        return {"name": "slidecascade", "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/health/live", summary="Check that the process is alive")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get(
        "/health/ready",
        summary="Check that all models can be run",
        responses=problems(NotReadyError, DrainingError),
    )
    async def ready() -> dict[str, bool]:
        admission.require_open()
        await readiness.require()
        return {"ready": True}

    _model_routes(router, analyser, inferences, readiness)
    return router


def _model_routes(router: APIRouter, analyser: Analyser, inferences: Inferences, readiness: Readiness) -> None:
    """Each route with and without the model's version in the path."""

    @router.get(_MODEL, **_SHOW)
    async def model(name: str) -> dict[str, Any]:
        return metadata(_package(analyser, name, None).spec)

    @router.get(_VERSION, **_SHOW)
    async def model_version(name: str, version: str) -> dict[str, Any]:
        return metadata(_package(analyser, name, version).spec)

    @router.get(f"{_MODEL}/ready", **_READY)
    async def model_ready(name: str) -> dict[str, Any]:
        _package(analyser, name, None)
        await readiness.require()
        return {"name": name, "ready": True}

    @router.get(f"{_VERSION}/ready", **_READY)
    async def model_version_ready(name: str, version: str) -> dict[str, Any]:
        _package(analyser, name, version)
        await readiness.require()
        return {"name": name, "ready": True}

    @router.post(f"{_MODEL}/infer", **_INFER)
    async def infer(request: Request, name: str) -> Response:
        return await inferences.answer(request, _package(analyser, name, None))

    @router.post(f"{_VERSION}/infer", **_INFER)
    async def infer_version(request: Request, name: str, version: str) -> Response:
        return await inferences.answer(request, _package(analyser, name, version))


def _package(analyser: Analyser, name: str, version: str | None) -> ModelPackage:
    package = analyser.package(name)
    if version not in (None, str(package.spec.version)):
        raise UnknownModelError(f"Model {name!r} has no version {version!r}: use version {package.spec.version}.")
    return package


def inference_route(path: str) -> str | None:
    """The route's template if a POST to `path` runs one network, else None."""
    if path == TRANSLATE:
        return path
    found = _INFER_PATH.fullmatch(path)
    return found and f"{PREFIX}/models/{{name}}{'/versions/{version}' if found[1] else ''}/infer"


def in_protocol(scope: Scope, send: Send) -> Send:
    """`send`, with problems converted to the protocol's errors for its requests: ``{"error": "..."}``."""
    if scope["path"] != PREFIX and not scope["path"].startswith(f"{PREFIX}/"):
        return send
    held: Message | None = None

    async def translated(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            kind = Headers(raw=list(message.get("headers", ()))).get("content-type", "")
            if kind.startswith(PROBLEM):
                held = message  # until the body is known, for Content-Length
                return
        elif held is not None and message["type"] == "http.response.body":
            start, held = held, None
            body = orjson.dumps({"error": orjson.loads(message["body"])["detail"]})
            headers = MutableHeaders(raw=list(start["headers"]))
            headers["content-type"], headers["content-length"] = JSON, str(len(body))
            # The protocol has one status for all errors in tensors.
            status = _BAD_REQUEST if start["status"] == _UNPROCESSABLE else start["status"]
            await send({**start, "status": status, "headers": headers.raw})
            message = {"type": "http.response.body", "body": body}
        await send(message)

    return translated
