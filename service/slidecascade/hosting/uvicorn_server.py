"""Serves an ASGI application on a socket in this process until a stop signal."""

from __future__ import annotations

import logging
import math
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidecascade import logs
from slidecascade.errors import SlideCascadeError
from slidecascade.hosting.connection import DEFAULT_TIMEOUTS, Connection, Timeouts
from slidecascade.hosting.handshake import Accept, over_tls
from slidecascade.hosting.openconnections import OpenConnections, most_connections

LOG = logging.getLogger(__name__)
_BACKLOG = 2048
"""Maximum connections waiting to be accepted."""

_ACCEPTS_PER_ITERATION = 16
"""Connections accepted per loop iteration, so that others can be closed in between to make room."""

_THREADS_GRACE_S = 10.0
"""Time for threads to exit after shutdown; the interpreter would wait for them without limit."""

_RESPONSES_GRACE_S = 5
"""Time for slow clients to read their responses during shutdown."""


def run(
    app: ASGIApp,
    listeners: Sequence[socket.socket],
    *,
    ready: Callable[[], None],
    max_connections: int,
    retry_after_s: int,
    slide_files: int = 0,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Serve `app` on bound sockets until a stop signal, with `tls` or plainly; the exit code.

    `ready` is called after startup.

    At most `max_connections` connections are open, fewer if the limit of open files is lower; clients beyond that
    are asked to come back after `retry_after_s`. Of the files, `slide_files` are for slides.

    Raises:
        SlideCascadeError: when the application failed to start.
    """
    service = _Startup(app, ready)
    all_open = OpenConnections(most_connections(max_connections, slide_files=slide_files))
    timeout_log = logs.Throttle(LOG, "connections timed out")
    limits: dict[str, Any] = {"all_open": all_open, "timeouts": timeouts, "timeout_log": timeout_log}
    connection: Accept = partial(Connection, retry_after_s=retry_after_s, **limits)
    config = uvicorn.Config(
        service,
        http=connection if tls is None else over_tls(connection, tls, **limits),  # type: ignore[arg-type]  # called only
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_ACCEPTS_PER_ITERATION,
        timeout_keep_alive=math.ceil(timeouts.idle_s),
        timeout_graceful_shutdown=_RESPONSES_GRACE_S,
    )
    config.load()
    config.ssl = None  # connections of TLS begin plainly, see `slidecascade.hosting.handshake`
    try:
        _Server(config).run(sockets=list(listeners))
    except SystemExit as ended:
        if service.failure is not None:
            raise service.failure from None
        return 1 if ended.code else 0
    return 0


def _force_exit() -> None:
    """Exit the process after `_THREADS_GRACE_S`, even if threads still run."""

    def exit_now() -> None:
        LOG.warning("threads still running at exit")
        os._exit(1)

    timer = threading.Timer(_THREADS_GRACE_S, exit_now)
    timer.daemon = True
    timer.start()


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # asyncio's backlog also limits accepts per iteration


class _Startup:
    """Wraps the application and keeps the error of a failed startup, which uvicorn only logs."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None]) -> None:
        self._app = app
        self._ready = ready
        self.failure: SlideCascadeError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def watched_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._ready()
            elif message["type"] == "lifespan.startup.failed":
                message = {"type": message["type"], "message": ""}  # it holds a stack trace
            await send(message)

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                _force_exit()
            return message

        try:
            await self._app(scope, watched_receive, watched_send)
        except SlideCascadeError as error:
            self.failure = error
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the error is reported by the caller
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            raise
