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
from slidecascade.errors import UnknownModelError
from slidecascade.models.repository import ModelPackage
from slidecascade.web.inference import Inferences
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.readiness import Readiness
from slidecascade.web.tensors import metadata
from slidecascade.wire import JSON, PROBLEM

PREFIX: Final = "/v2"
ERROR_CONTENT: Final[dict[str, Any]] = {
    JSON: {"schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}}
}
"""The protocol's errors in the OpenAPI document."""

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

    @router.get("/health/ready", summary="Check that all models can be run")
    async def ready() -> dict[str, bool]:
        admission.require_open()
        await readiness.require()
        return {"ready": True}

    _model_routes(router, analyser, inferences, readiness)
    return router


def _model_routes(router: APIRouter, analyser: Analyser, inferences: Inferences, readiness: Readiness) -> None:
    """Each route with and without the model's version in the path."""
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):

        @router.get(path, summary="Show the inputs and outputs of a model")
        async def model(name: str, version: str | None = None) -> dict[str, Any]:
            return metadata(_package(analyser, name, version).spec)

        @router.get(f"{path}/ready", summary="Check that a model can be run")
        async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
            _package(analyser, name, version)
            await readiness.require()
            return {"name": name, "ready": True}

        @router.post(f"{path}/infer", summary="Run a model on tensors", response_class=Response)
        async def infer(request: Request, name: str, version: str | None = None) -> Response:
            return await inferences.answer(request, _package(analyser, name, version))


def _package(analyser: Analyser, name: str, version: str | None) -> ModelPackage:
    package = analyser.package(name)
    if version not in (None, str(package.spec.version)):
        raise UnknownModelError(f"Model {name!r} has no version {version!r}: use version {package.spec.version}.")
    return package


def inference_route(path: str) -> str | None:
    """The route's template if a POST to `path` is an inference, else None."""
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
