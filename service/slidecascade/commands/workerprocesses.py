"""Several ``slidecascade worker`` processes on one machine, which share its cores or its GPU, and its memory.

One process keeps a GPU busy for a part of the time only: reading, decoding and classifying alternate in it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from slidecascade.cores import usable_cores
from slidecascade.memory import usable_bytes
from slidecascade.settings import Settings

LOG = logging.getLogger(__name__)

PROGRAM: Final[list[str]] = [sys.executable, "-m", "slidecascade"]
CHILD_FLAG: Final = "--until-stdin-closes"
_WRONG_CALL: Final = 2
_STOP_S: Final = 60.0
_LOOK_S: Final = 0.2
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


def shares(settings: Settings, processes: int) -> Mapping[str, str]:
    """The environment of one of `processes`: its part of the threads and of the memory."""
    threads = max(1, (settings.threads or usable_cores()) // processes)
    memory_mib = max(1, (settings.memory_mib or usable_bytes() // 2 // 2**20) // processes)
    share = {"SLIDECASCADE_THREADS": str(threads), "SLIDECASCADE_MEMORY_MIB": str(memory_mib)}
    if settings.gpu_memory_mib:
        share["SLIDECASCADE_GPU_MEMORY_MIB"] = str(max(1, settings.gpu_memory_mib // processes))
    return share


def run_processes(
    words: Sequence[str],
    environment: Mapping[str, str],
    count: int,
    stopped: threading.Event,
    *,
    heartbeat: Path | None = None,
) -> int:
    """Keep `count` workers running until `stopped`; the exit code. `heartbeat` is touched meanwhile.

    One that ends is started again, after a pause that grows while it keeps ending. One that rejects its settings
    ends all. Workers end with this process, however it ends: they read a pipe that closes with it.
    """
    children = [_Child([*PROGRAM, *words, CHILD_FLAG], environment) for _ in range(count)]
    code = 0
    try:
        while not stopped.wait(_LOOK_S) and not code:
            if heartbeat is not None:
                heartbeat.touch()
            for child in children:
                code = code or child.look()
    finally:
        for child in children:
            child.close()
        for child in children:
            child.join()
    return code


class _Child:
    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = os.environ | dict(environment)
        self._pause_s = _FIRST_PAUSE_S
        self._restart_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def look(self) -> int:
        """Start the process again if it has ended; non-zero: it rejects its settings."""
        if self._process is None:
            if time.monotonic() >= self._restart_at:
                self._start()
            return 0
        code = self._process.poll()
        if code is None or code == _WRONG_CALL:
            return code or 0
        LOG.error("a worker has ended", extra={"fields": {"pid": self._process.pid, "code": code}})
        if time.monotonic() - self._started_at > _LONGEST_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
        self._restart_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self.close()
        self._process = None
        return 0

    def close(self) -> None:
        """Ask the process to end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def join(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE)  # noqa: S603 - our own command
        LOG.info("a worker was started", extra={"fields": {"pid": self._process.pid}})
