"""An ASGI application behind a socket in this very process, until told to stop."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidecascade import logs
from slidecascade.errors import SlideCascadeError
from slidecascade.hosting.connection import DEFAULT_PATIENCE, Connection, Patience
from slidecascade.hosting.openconnections import OpenConnections, most_connections

LOG = logging.getLogger(__name__)
_BACKLOG = 2048
"""Connections that may wait to be accepted."""

_ACCEPTED_AT_ONCE = 16
"""Connections accepted before the loop does anything else, such as closing others to make room for them."""

_LAST_THREADS_S = 10.0
"""How long threads may take to end once the service has stopped; an interpreter would wait for ever."""

_LAST_BYTES_S = 5
"""How long slow readers may take to fetch their answers once the service stops."""


def run(
    app: ASGIApp,
    listener: socket.socket,
    *,
    ready: Callable[[], None],
    max_connections: int,
    patience: Patience = DEFAULT_PATIENCE,
) -> int:
    """Serve `app` until a stop signal; the exit code. `ready` is called when it has started.

    There are at most `max_connections` connections, fewer where this process may not open as many files.

    Raises:
        SlideCascadeError: what kept the application from starting.
    """
    service = _Start(app, ready)
    connection = partial(
        Connection,
        all_open=OpenConnections(most_connections(max_connections)),
        patience=patience,
        timeouts=logs.Throttle(LOG, "connections closed that kept waiting"),
    )
    config = uvicorn.Config(
        service,
        http=connection,  # type: ignore[arg-type]  # only ever called
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=math.ceil(patience.idle_s),
        timeout_graceful_shutdown=_LAST_BYTES_S,
    )
    try:
        _Server(config).run(sockets=[listener])
    except SystemExit as ended:
        if service.failure is not None:
            raise service.failure from None
        return 1 if ended.code else 0
    return 0


def _end_at_the_latest() -> None:
    """From now on the process ends within `_LAST_THREADS_S`, whatever its threads are stuck in."""

    def end() -> None:
        LOG.warning("threads left behind")
        os._exit(1)

    timer = threading.Timer(_LAST_THREADS_S, end)
    timer.daemon = True
    timer.start()


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # asyncio has one number for this and for how many it accepts at once


class _Start:
    """The application, and what kept it from starting: the server tells its log only that something did."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None]) -> None:
        self._app = app
        self._ready = ready
        self.failure: SlideCascadeError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._ready()
            elif message["type"] == "lifespan.startup.failed":
                message = {"type": message["type"], "message": ""}  # it holds a stack trace
            await send(message)

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                _end_at_the_latest()
            return message

        try:
            await self._app(scope, heard, told)
        except SlideCascadeError as error:
            self.failure = error
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the one sentence follows
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            raise
