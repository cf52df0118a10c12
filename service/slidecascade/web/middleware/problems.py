"""The outermost middleware: request ids, authentication, admission, error responses, access log and metrics."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidecascade import logs
from slidecascade.errors import RetryLaterError, SlideCascadeError, release_frames
from slidecascade.metrics import UNMATCHED, Metrics
from slidecascade.web.encoding import encoded
from slidecascade.web.entry import ALWAYS_OPEN, as_usual, require_clear_framing, require_host, require_port
from slidecascade.web.kserve import in_protocol, inference_route
from slidecascade.web.middleware.admission import Admission
from slidecascade.web.middleware.audit import Audit
from slidecascade.web.middleware.auth import Auth
from slidecascade.web.middleware.cors import Cors
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.middleware.head import Head, bodiless
from slidecascade.web.rest import http_problem, problem_response
from slidecascade.wire import PROBLEM

LOG = logging.getLogger(__name__)
ACCESS = logging.getLogger(f"{logs.OWN}.access")

_CLIENT_GONE = 499
_FAULTS = frozenset({500, 502})
_KEPT: Final = ("Allow", "Content-Range")
"""Headers of an error of the framework that say something of their own."""


class Boundary:
    """ASGI middleware: request ids, authentication, admission, the final error handler, and per request one log
    line, one line of the audit log, and metrics.

    A POST to one of `work_paths` is a region, which needs a place before its body is read, like an inference.
    `allowed_hosts` are the accepted host names; empty: any. `metrics_port` is the port that has metrics and
    nothing else; None: there is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        auth: Auth,
        audit: Audit,
        metrics: Metrics,
        work_paths: frozenset[str],
        allowed_hosts: tuple[str, ...] = (),
        cors_origins: tuple[str, ...] = (),
        metrics_port: int | None = None,
    ) -> None:
        self._app = Head(app)
        self._admission = admission
        self._auth = auth
        self._audit = audit
        self._metrics = metrics
        self._work_paths = work_paths
        self._allowed_hosts = allowed_hosts
        self._metrics_port = metrics_port
        self._answered: ASGIApp = Cors(self._answer, cors_origins) if cors_origins else self._answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = as_usual(scope)
        exchange = Exchange.begin(scope)
        with logs.request(exchange.request_id):
            try:
                send = encoded(scope, bodiless(scope, exchange.recording(send)))
                await self._answered(scope, receive, in_protocol(scope, send))
            finally:
                self._settle(exchange, scope)
                exchange.end()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange.of(Request(scope))
        try:
            self._require_entry(exchange, scope)
            self._audit.require(scope)
            await self._auth.admit(scope)
            require_port(scope, self._metrics_port)
            async with self._admitted(exchange, scope):
                await self._app(scope, receive, send)
        except Exception as error:  # the request boundary: every error is reported
            if isinstance(error, SlideCascadeError):
                exchange.error = error
            else:
                LOG.exception("unexpected error")
                release_frames(error)
            if exchange.complete:
                return
            if exchange.status is not None:
                # The status is sent already: only a broken connection shows that the response is incomplete.
                raise ConnectionAbortedError("The response was interrupted.") from None
            await problem_response(error, exchange.request_id)(scope, receive, send)

    def _require_entry(self, exchange: Exchange, scope: Scope) -> None:
        exchange.last = True  # its framing is unknown, so the next request cannot be read
        require_clear_framing(scope)
        require_host(scope, self._allowed_hosts)
        exchange.last = False

    @asynccontextmanager
    async def _admitted(self, exchange: Exchange, scope: Scope) -> AsyncIterator[None]:
        path, is_post = scope["path"], scope["method"] == "POST"
        if is_post and path in self._work_paths:
            with self._auth.region(scope):
                async with self._admission.region() as exchange.place:
                    yield
        elif is_post and inference_route(path):
            async with self._admission.inference() as exchange.place:
                yield
        else:
            if path not in ALWAYS_OPEN:
                self._admission.require_open()
            yield

    def _settle(self, exchange: Exchange, scope: Scope) -> None:
        """Log the request and update the metrics."""
        template = self._template(scope)
        status = exchange.status or _CLIENT_GONE
        error = exchange.error
        if isinstance(error, RetryLaterError):
            self._metrics.rejected(error.problem)
        if status in _FAULTS:
            LOG.error("failed", extra={"fields": {"status": status}}, exc_info=error)
        self._metrics.request(route=template, method=scope["method"], status=status, seconds=exchange.seconds)
        fields = {
            "method": scope["method"],
            "route": template,
            "status": status,
            "duration_s": round(exchange.seconds, 4),
            "bytes": exchange.sent_bytes,
        }
        if error is not None:
            fields["problem"] = error.problem
        self._audit.note(exchange, scope, template, status)
        is_probe = scope["path"] in ALWAYS_OPEN and status < 400
        ACCESS.log(logging.DEBUG if is_probe else logging.INFO, "request", extra={"fields": fields})

    def _template(self, scope: Scope) -> str:
        """The route's template, because the path may contain the name of a slide."""
        if scope["path"] in self._work_paths:
            return str(scope["path"])
        route = scope.get("route")
        # A request rejected before routing has none.
        return route.path if isinstance(route, Route) else inference_route(scope["path"]) or UNMATCHED


class ProblemAnswers:
    """ASGI middleware for BentoML's application: converts its error responses to problems, and passes ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange.of(Request(scope))
        replaced = False

        async def translated(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = {key.lower(): value for key, value in message["headers"]}
                replaced = not headers.get(b"content-type", b"").startswith(PROBLEM.encode())
                if replaced:
                    error = exchange.error
                    kept = {
                        name: headers[key].decode() for name in _KEPT if (key := name.lower().encode()) in headers
                    }
                    await (
                        problem_response(error, exchange.request_id)
                        if error is not None
                        else http_problem(message["status"], exchange.request_id, headers=kept)
                    )(scope, receive, send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, translated)
