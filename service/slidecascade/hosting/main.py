"""``slidecascade serve``: runs the BentoML service in this process, without BentoML's supervisor.

The supervisor of ``bentoml serve`` restarts a worker with invalid models indefinitely, and any local user can
control it over a local port. The service is the same under both.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from slidecascade import logs
from slidecascade.cores import usable_cores
from slidecascade.errors import ListenError, MissingExtraError, SettingsError
from slidecascade.heaps import share_heaps
from slidecascade.hosting.tls import tls_context
from slidecascade.hosts import default_hosts, is_loopback
from slidecascade.settings import Settings, unknown_settings

LOG = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Serve until a stop signal; the exit code.

    Raises:
        ModelPackageError, PipelineSpecError: for an invalid package or pipeline.
        SettingsError: when a folder's name cannot be passed in the environment.
        SettingsError: when the address is beyond loopback, and there is no authentication; or files of TLS cannot
            be used.
        ListenError: when the address cannot be bound.
        MissingExtraError: when the service extra is not installed.
    """
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    _require_authentication(settings)
    share_heaps()
    if not settings.allowed_hosts:
        settings = settings.model_copy(update={"allowed_hosts": default_hosts(settings.host)})
    _export_settings(settings)
    tls = tls_context(settings)
    logs.configure()
    _warn_unknown_settings()
    with ExitStack() as opened:
        ports = (settings.port, *([] if settings.metrics_port is None else [settings.metrics_port]))
        listeners = [opened.enter_context(_listener(settings.host, port)) for port in ports]
        return _run(settings, listeners, tls)


def _run(settings: Settings, listeners: Sequence[socket.socket], tls: ssl.SSLContext | None) -> int:
    """`listeners`: the first is the service's."""
    try:
        from slidecascade.hosting.bento_entry import make_service
        from slidecascade.hosting.supervisor import ModelProcesses
        from slidecascade.hosting.uvicorn_server import run
        from slidecascade.slides.confinedslide import most_files
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("slidecascade"):
            raise
        raise MissingExtraError.of(error.name, "service,cpu", "to serve") from error
    service = make_service(settings)
    host, port = listeners[0].getsockname()[:2]

    def ready() -> None:
        LOG.info("listening", extra={"fields": {"host": host, "port": port}})

    with ModelProcesses(service):
        return run(
            service.to_asgi(is_main=True),
            listeners,
            ready=ready,
            tls=tls,
            max_connections=settings.max_connections,
            retry_after_s=settings.retry_after_s,
            slide_files=most_files() * (settings.slide_handles + (settings.threads or usable_cores())),
        )


def _require_authentication(settings: Settings) -> None:
    """Raise SettingsError when other machines would be let in without a key."""
    is_on = settings.keys_file is not None or settings.oidc_file is not None
    if is_on or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"Everybody who reaches {settings.host} could use this server: make a key with `slidecascade keys create` "
        "and set SLIDECASCADE_KEYS_FILE, or set SLIDECASCADE_ALLOW_ANONYMOUS=1."
    )


def _exit(_number: int, _frame: FrameType | None) -> None:
    """Handles stop signals while the server does not: before it starts and after it has shut down."""
    raise SystemExit(0)


def _export_settings(settings: Settings) -> None:
    """Write the settings to the environment, because BentoML creates the service object itself."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            parts = tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
            separator = "," if name == "allowed_hosts" else os.pathsep
            if isinstance(value, tuple) and any(separator in part for part in parts):
                raise SettingsError(
                    f"A folder of {name} has {separator!r} in its name, which separates folders: rename it, or "
                    "give a link to it."
                )
            os.environ[f"SLIDECASCADE_{name.upper()}"] = separator.join(parts)


def _warn_unknown_settings() -> None:
    """Log the name, not the value, of every variable with our prefix that is not a setting."""
    for name, meant in unknown_settings(os.environ).items():
        LOG.warning("unknown setting", extra={"fields": {"name": name, **({"meant": meant} if meant else {})}})


def _listener(host: str, port: int) -> socket.socket:
    """A socket bound to the address; the server listens on it when the models are loaded."""
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
        raise ListenError(f"{host!r} is not an address of this machine: set another --host.") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ListenError(f"{host!r} is not an address of this machine: set another --host.") from error
        reason = error.strerror or "the address is unknown"
        raise ListenError(
            f"Cannot listen on port {port} of {host} ({reason}): free the port, or set another --port."
        ) from error
    return listener
