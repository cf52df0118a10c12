"""``slidecascade serve``: the BentoML service in this very process, without a supervisor beside it.

BentoML's own ``bentoml serve`` puts a supervisor in front that restarts a worker whose models are refused for
ever and can be commanded over a local port by anybody on the machine. The service is the same under both.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from types import FrameType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidecascade import logs
from slidecascade.errors import ListenError, MissingExtraError, SettingsError, SlideCascadeError
from slidecascade.settings import Settings, unknown_settings

LOG = logging.getLogger(__name__)
_BACKLOG = 2048
_KEEP_ALIVE_S = 30
"""Longer than clients keep idle connections, so that they do not send into one that is being closed."""

_M_ARENA_MAX = -8
"""Number of the parameter in glibc's malloc.h."""

_LAST_THREADS_S = 10.0
"""How long threads may take to end once the service has stopped; an interpreter would wait for ever."""

_LAST_BYTES_S = 5
"""How long slow readers may take to fetch their answers once the service stops."""


def serve(settings: Settings) -> int:
    """Serve until told to stop; the exit code.

    Raises:
        ModelPackageError, PipelineSpecError: when something must not be served.
        SettingsError: when a folder's name cannot be handed over.
        ListenError: when the address cannot be listened on.
        MissingExtraError: when the service is not installed.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    _share_heaps()
    _hand_over(settings)
    logs.configure()
    _tell_unknown()
    with _listener(settings.host, settings.port) as listener:
        return _run(listener)


def _run(listener: socket.socket) -> int:
    try:
        import uvicorn

        from slidecascade.app import SERVICE
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("slidecascade"):
            raise
        raise MissingExtraError(
            f"{error.name} is not installed: install slidecascade[service,cpu] to serve."
        ) from error
    service = _Start(SERVICE.to_asgi(is_main=True), listener)
    config = uvicorn.Config(
        service,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_BYTES_S,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except SystemExit as ended:
        if service.failure is not None:
            raise service.failure from None
        return 1 if ended.code else 0
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    """What a stop signal does while no server has it: before one runs, and again when one has ended in order."""
    raise SystemExit(0)


def _share_heaps() -> None:
    """Let all threads allocate from two heaps (glibc) instead of up to eight per core, each keeping what is freed.

    Measured over 24 regions in a row: memory levels off 10 % above the first region instead of 23 %.
    """
    with suppress(OSError, AttributeError):  # another C library: nothing to set
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _hand_over(settings: Settings) -> None:
    """BentoML builds the service object itself, so the settings travel in the environment."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            parts = tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
            if isinstance(value, tuple) and any(os.pathsep in part for part in parts):
                raise SettingsError(
                    f"A folder of {name} has {os.pathsep!r} in its name, which separates folders: rename it, or "
                    "give a link to it."
                )
            os.environ[f"SLIDECASCADE_{name.upper()}"] = os.pathsep.join(parts)


def _tell_unknown() -> None:
    """A line for each variable that looks like a setting and is none; its value is not told."""
    for name, meant in unknown_settings(os.environ).items():
        LOG.warning("unknown setting", extra={"fields": {"name": name, **({"meant": meant} if meant else {})}})


def _listener(host: str, port: int) -> socket.socket:
    """A socket bound to the address; it accepts once the server listens on it, when the models are loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except socket.gaierror as error:
        raise ListenError(f"{host!r} is no address of this machine: give another --host.") from error
    except OSError as error:
        reason = error.strerror or "the address is unknown"
        raise ListenError(
            f"Port {port} on {host} cannot be listened on ({reason}): stop what uses it, or give another --port."
        ) from error
    return listener


def _end_at_the_latest() -> None:
    """From now on the process ends within `_LAST_THREADS_S`, whatever its threads are stuck in."""

    def end() -> None:
        LOG.warning("threads left behind")
        os._exit(1)

    timer = threading.Timer(_LAST_THREADS_S, end)
    timer.daemon = True
    timer.start()


class _Start:
    """The application, and what kept it from starting: the server tells its log only that something did."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self.failure: SlideCascadeError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                host, port = self._listener.getsockname()[:2]
                LOG.info("ready", extra={"fields": {"host": host, "port": port}})
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
