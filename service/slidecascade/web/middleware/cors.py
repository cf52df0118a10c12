"""Access from pages of allowed origins (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from slidecascade import wire
from slidecascade.web.middleware.exchange import Exchange

_METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Inference-Header-Content-Length",
    "Last-Event-ID",
    "Range",
    "X-API-Key",
    "X-Request-Id",
)
_ANSWER_HEADERS: Final = (
    "Content-Disposition",
    "ETag",
    "Inference-Header-Content-Length",
    "Location",
    "Retry-After",
    "X-Request-Id",
)
_PREFLIGHT_S: Final = 600
"""How long a browser may cache a preflight response."""


class Cors:
    """ASGI middleware: allows pages of `origins` to read responses; ``*`` allows every origin.

    Credentials such as cookies are never allowed: keys are sent in a header, which a page must know.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._cors = _Preflight(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_ANSWER_HEADERS,
            max_age=_PREFLIGHT_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._cors(scope, receive, send)


class _Preflight(CORSMiddleware):
    """Starlette's middleware, with rejections as problems instead of text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers:
            response = self.preflight_response(headers)
            if response.status_code >= 400:
                response = _refusal(response, Exchange.of(Request(scope)).request_id)
            await response(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def _refusal(response: Response, request_id: str) -> Response:
    problem = wire.Problem(
        type=f"{wire.PROBLEM_PREFIX}malformed-request",
        title="Malformed request",
        status=400,
        detail="This origin, method or header is not allowed for pages of other sites: the operator can list the "
        "origin in SLIDECASCADE_CORS_ORIGINS.",
        request_id=request_id,
    )
    headers = {name: value for name, value in response.headers.items() if name.startswith(("access-", "vary"))}
    return Response(problem.model_dump_json(exclude_none=True), 400, headers, wire.PROBLEM)
