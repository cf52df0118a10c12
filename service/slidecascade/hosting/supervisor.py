"""The processes of models' services under ``slidecascade serve``: started, watched, started again, ended last.

BentoML's supervisor ends all processes at once, while regions in flight still need their networks; this one ends
them when the service that calls them has stopped.
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
from slidecascade.hosting.heartbeat import beats_to_its_end
from slidecascade.hosting.socketfolder import socket_folder

LOG = logging.getLogger(__name__)
_BACKLOG = 2048
_END_S = 5.0
"""How long a process may take to leave before it is killed."""

_PAUSES_S = (0.0, 1.0, 5.0, 30.0)
"""Before a process that has ended is started again: the longer, the more often it ended before it was ready."""

_TOLD: dict[str, type[SlideCascadeError]] = {
    error.problem: error for error in (ModelPackageError, SettingsError, MissingExtraError)
}


class ModelProcesses:
    """A process for each service that a BentoML service depends on, while in the context.

    Entering waits until all are ready. The sockets are this process's own: while one of the others is started
    again, calls to it wait.

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
                processes.append(_Kept(name, listener, first))
            opened.callback(_end, processes)
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


class _Kept(threading.Thread):
    """One process, started again when it ends; `first` is told how the first start went."""

    def __init__(self, name: str, listener: socket.socket, first: SimpleQueue[SlideCascadeError | None]) -> None:
        super().__init__(name=f"process of {name}", daemon=True)
        self._service = name
        self._listener = listener
        self._first: SimpleQueue[SlideCascadeError | None] | None = first
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._changed = threading.Lock()

    def run(self) -> None:
        failures = 0
        while (process := self._begin()) is not None:
            with cast("IO[bytes]", process.stdout) as channel:
                failure = self._report(channel)
                if self._first is not None:
                    self._first.put(failure)
                    self._first = None
                    if failure is not None:
                        return
                self._outlast(process, channel)
            if self._ending.is_set():
                return
            failures = failures + 1 if failure is not None else 0
            LOG.error("%s: its process ended (%s) and is started again", self._service, process.returncode)
            self._ending.wait(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])

    def ask_to_leave(self) -> None:
        with self._changed:
            self._ending.set()
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()  # by that it leaves, as it does when this process is killed

    def end(self, *, at: float) -> None:
        """Wait for it until the monotonic clock says `at`, then kill it."""
        process = self._process
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, at - time.monotonic()))
        if process.poll() is None:
            LOG.warning("%s: its process did not leave and is killed", self._service)
            _kill(process)
            process.wait()

    def _begin(self) -> subprocess.Popen[bytes] | None:
        with self._changed:
            if self._ending.is_set():
                return None
            handle = self._listener.fileno()
            # In a session of its own, where a terminal's Ctrl-C does not reach it before its callers are done.
            self._process = subprocess.Popen(  # noqa: S603  # nothing here comes from outside
                [sys.executable, "-m", "slidecascade.hosting.model_worker", self._service, str(handle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # what is read here is looked for below as well
                pass_fds=(handle,),
                start_new_session=True,
            )
            return self._process

    def _outlast(self, process: subprocess.Popen[bytes], channel: IO[bytes]) -> None:
        """Wait for the end of the process; one that hangs is killed, unless it was asked to leave."""
        if not beats_to_its_end(process.pid, channel) and not self._ending.is_set():
            LOG.error("%s: its process hangs and is killed", self._service)
            _kill(process)
        process.wait()

    def _report(self, channel: IO[bytes]) -> SlideCascadeError | None:
        """What the process says when it is ready, or cannot be: None, or what is wrong."""
        try:
            told = json.loads(channel.readline())
            return _TOLD[told["problem"]](told["detail"]) if told else None
        except (ValueError, KeyError, TypeError):
            return ModelFailedError(f"The process of {self._service} ended before it was ready: see the log.")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: its id is its group's


def _end(processes: list[_Kept]) -> None:
    for process in processes:
        process.ask_to_leave()
    at = time.monotonic() + _END_S
    for process in processes:
        process.end(at=at)
