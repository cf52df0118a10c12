"""The process of one model's service under ``slidecascade serve``.

``python -m slidecascade.hosting.model_worker NAME FD`` listens on the socket it was given, reports on stdout that
it is ready or what is wrong, beats there while it serves, and exits when its stdin is closed: then the process
that started it is gone.
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
from slidecascade.hosting.bento_entry import make_service
from slidecascade.hosting.heaps import share_heaps
from slidecascade.hosting.heartbeat import keep_beating
from slidecascade.hosting.uvicorn_server import run
from slidecascade.privacy import forbid_telemetry
from slidecascade.settings import read_settings

KEEP_ALIVE_S = 3600
"""Longer than BentoML's client keeps a connection: it never sends into one that is being closed."""


def main(arguments: Sequence[str]) -> int:
    """Serve until told to leave; the exit code."""
    forbid_telemetry()
    name, handle = arguments
    channel = os.dup(1)
    os.dup2(2, 1)  # what anything else may print is no answer

    def say(told: Mapping[str, str]) -> None:
        os.write(channel, json.dumps(told).encode() + b"\n")

    def ready() -> None:
        say({})
        keep_beating(channel)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    threading.Thread(target=_leave_with_starter, name="starter", daemon=True).start()
    share_heaps()
    logs.configure(service=name)
    try:
        service = make_service(read_settings()).find_dependent_by_name(name)
        with socket.socket(fileno=int(handle)) as listener:
            return run(service.to_asgi(is_main=False), listener, ready=ready, keep_alive_s=KEEP_ALIVE_S)
    except SlideCascadeError as error:
        say({"problem": error.problem, "detail": error.detail})
        return 1


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _leave_with_starter() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
