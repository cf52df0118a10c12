"""The process of one model's service under ``slidecascade serve``.

``python -m slidecascade.hosting.model_worker NAME FD`` serves on the inherited socket FD, reports on stdout that
it is ready or why it failed, sends heartbeats there while it serves, and exits when its stdin is closed, that is,
when its parent has exited.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType

from slidecascade import logs
from slidecascade.errors import SlideCascadeError
from slidecascade.heaps import share_heaps
from slidecascade.hosting.bento_entry import make_service
from slidecascade.hosting.connection import Timeouts
from slidecascade.hosting.heartbeat import send_heartbeats
from slidecascade.hosting.uvicorn_server import run
from slidecascade.privacy import forbid_telemetry
from slidecascade.settings import read_settings

KEEP_ALIVE_S = 3600
"""Longer than BentoML's client keeps idle connections, so that it never sends on a closing one."""


def main(arguments: Sequence[str]) -> int:
    """Serve until a stop signal; the exit code."""
    forbid_telemetry()
    name, handle = arguments
    channel = os.dup(1)
    os.dup2(2, 1)  # other output must not reach the report channel

    def report(problem: Mapping[str, str]) -> None:
        os.write(channel, json.dumps(problem).encode() + b"\n")

    def ready() -> None:
        report({})
        send_heartbeats(channel)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()
    share_heaps()
    logs.configure(service=name)
    try:
        settings = read_settings()
        service = make_service(settings).find_dependent_by_name(name)
        with socket.socket(fileno=int(handle)) as listener:
            return run(
                service.to_asgi(is_main=False),
                [listener],
                ready=ready,
                max_connections=settings.max_connections,
                retry_after_s=settings.retry_after_s,
                timeouts=Timeouts(idle_s=KEEP_ALIVE_S),
            )
    except SlideCascadeError as error:
        report({"problem": error.problem, "detail": error.detail})
        return 1


def _exit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _exit_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
