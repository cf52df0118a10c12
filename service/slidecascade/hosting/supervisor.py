"""Supervisor of the model processes under ``slidecascade serve``: starts, monitors and restarts them.

BentoML's supervisor stops all processes at once, while regions in flight still need their networks; this one
stops the model processes after the service that calls them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import IO, Any, Self, cast

from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils.uri import path_to_uri

from slidecascade.errors import (
    MissingExtraError,
    ModelFailedError,
    ModelPackageError,
    SettingsError,
    SlideCascadeError,
)
from slidecascade.hosting.heartbeat import watch_heartbeats
from slidecascade.hosting.socketfolder import socket_folder

LOG = logging.getLogger(__name__)
_BACKLOG = 2048
_EXIT_S = 5.0
"""Time for a process to exit before it is killed."""

_RESTART_DELAYS_S = (0.0, 1.0, 5.0, 30.0)
"""Restart delays, by the number of consecutive exits before the process was ready."""

_REPORTED_ERRORS: dict[str, type[SlideCascadeError]] = {
    error.problem: error for error in (ModelPackageError, SettingsError, MissingExtraError)
}


class ModelProcesses:
    """Runs a process for each dependency of a BentoML service, while in the context.

    Entering waits until all are ready. This process owns the listening sockets, so calls to a restarting process
    wait.

    Raises:
        ModelPackageError, SettingsError, MissingExtraError, ModelFailedError: when one cannot start.
    """

    def __init__(self, service: Any) -> None:
        self._names = [name for name in service.all_services() if name != service.name]
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        if not self._names:
            return self
        with ExitStack() as opened:
            folder = opened.enter_context(socket_folder())
            addresses, first = {}, SimpleQueue[SlideCascadeError | None]()
            processes = []
            for number, name in enumerate(self._names):
                path = folder / f"{number}.sock"
                listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                listener.bind(str(path))
                listener.listen(_BACKLOG)
                addresses[name] = path_to_uri(str(path))
                processes.append(_SupervisedProcess(name, listener, first))
            opened.callback(_stop_all, processes)
            for process in processes:
                process.start()
            for _ in processes:
                if (failure := first.get()) is not None:
                    raise failure
            BentoMLContainer.remote_runner_mapping.set(addresses)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._opened.close()


class _SupervisedProcess(threading.Thread):
    """Runs one process and restarts it when it exits; puts the result of the first start into `first`."""

    def __init__(self, name: str, listener: socket.socket, first: SimpleQueue[SlideCascadeError | None]) -> None:
        super().__init__(name=f"process of {name}", daemon=True)
        self._service = name
        self._listener = listener
        self._first: SimpleQueue[SlideCascadeError | None] | None = first
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._changed = threading.Lock()

    def run(self) -> None:
        failures = 0
        while (process := self._launch()) is not None:
            with cast("IO[bytes]", process.stdout) as channel:
                failure = self._startup_error(channel)
                if self._first is not None:
                    self._first.put(failure)
                    self._first = None
                    if failure is not None:
                        return
                self._watch(process, channel)
            if self._stopping.is_set():
                return
            failures = failures + 1 if failure is not None else 0
            LOG.error("%s: process exited (%s), restarting", self._service, process.returncode)
            self._stopping.wait(_RESTART_DELAYS_S[min(failures, len(_RESTART_DELAYS_S) - 1)])

    def request_shutdown(self) -> None:
        with self._changed:
            self._stopping.set()
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()  # it exits on that, as it does when this process is killed

    def stop(self, *, deadline: float) -> None:
        """Wait for it to exit until the monotonic time `deadline`, then kill it."""
        process = self._process
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            LOG.warning("%s: process did not exit in time, killing it", self._service)
            _kill(process)
            process.wait()

    def _launch(self) -> subprocess.Popen[bytes] | None:
        with self._changed:
            if self._stopping.is_set():
                return None
            handle = self._listener.fileno()
            # In a separate session, so that a terminal's Ctrl-C does not stop it before the requests are done.
            self._process = subprocess.Popen(  # noqa: S603  # no argument is external input
                [sys.executable, "-m", "slidecascade.hosting.model_worker", self._service, str(handle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # the heartbeat is read from the same descriptor with a selector
                pass_fds=(handle,),
                start_new_session=True,
            )
            return self._process

    def _watch(self, process: subprocess.Popen[bytes], channel: IO[bytes]) -> None:
        """Wait for the process to exit; kill it if it hangs, unless it is shutting down."""
        if not watch_heartbeats(process.pid, channel) and not self._stopping.is_set():
            LOG.error("%s: process hangs, killing it", self._service)
            _kill(process)
        process.wait()

    def _startup_error(self, channel: IO[bytes]) -> SlideCascadeError | None:
        """The process's startup report: None when it is ready, else the error."""
        try:
            report = json.loads(channel.readline())
            return _REPORTED_ERRORS[report["problem"]](report["detail"]) if report else None
        except (ValueError, KeyError, TypeError):
            return ModelFailedError(f"The process of {self._service} ended before it was ready: see the log.")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a session leader: its pid is its process group


def _stop_all(processes: list[_SupervisedProcess]) -> None:
    for process in processes:
        process.request_shutdown()
    deadline = time.monotonic() + _EXIT_S
    for process in processes:
        process.stop(deadline=deadline)
