"""``slidecascade serve``: the BentoML service in this very process, without a supervisor beside it.

BentoML's own ``bentoml serve`` puts a supervisor in front that restarts a worker whose models are refused for
ever and can be commanded over a local port by anybody on the machine. The service is the same under both.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from types import FrameType

from slidecascade import logs
from slidecascade.errors import ListenError, MissingExtraError, SettingsError
from slidecascade.hosting.heaps import share_heaps
from slidecascade.settings import Settings, unknown_settings

LOG = logging.getLogger(__name__)
_KEEP_ALIVE_S = 30
"""Longer than clients keep idle connections, so that they do not send into one that is being closed."""


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
    share_heaps()
    _hand_over(settings)
    logs.configure()
    _tell_unknown()
    with _listener(settings.host, settings.port) as listener:
        return _run(settings, listener)


def _run(settings: Settings, listener: socket.socket) -> int:
    try:
        from slidecascade.hosting.bento_entry import make_service
        from slidecascade.hosting.supervisor import ModelProcesses
        from slidecascade.hosting.uvicorn_server import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("slidecascade"):
            raise
        raise MissingExtraError(
            f"{error.name} is not installed: install slidecascade[service,cpu] to serve."
        ) from error
    service = make_service(settings)
    host, port = listener.getsockname()[:2]

    def ready() -> None:
        LOG.info("listening", extra={"fields": {"host": host, "port": port}})

    with ModelProcesses(service):
        return run(service.to_asgi(is_main=True), listener, ready=ready, keep_alive_s=_KEEP_ALIVE_S)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """What a stop signal does while no server has it: before one runs, and again when one has ended in order."""
    raise SystemExit(0)


def _hand_over(settings: Settings) -> None:
    """BentoML builds the service object itself, so the settings travel in the environment."""
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
        if error.errno == errno.EADDRNOTAVAIL:
            raise ListenError(f"{host!r} is no address of this machine: give another --host.") from error
        reason = error.strerror or "the address is unknown"
        raise ListenError(
            f"Port {port} on {host} cannot be listened on ({reason}): stop what uses it, or give another --port."
        ) from error
    return listener
