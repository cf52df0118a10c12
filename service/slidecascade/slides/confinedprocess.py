"""Starts the processes in which untrusted bytes are decoded."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from slidecascade.privacy import SWITCHES
from slidecascade.slides.fault import RaisedError

_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class EndedError(Exception):
    """A process died, or said what it must not; `raised` is what it says of its own failure."""

    def __init__(self, reason: str, raised: Sequence[RaisedError] = ()) -> None:
        super().__init__(reason)
        self._raised = tuple(raised)

    @property
    def fields(self) -> dict[str, Any]:
        """For the log."""
        found: dict[str, Any] = {"reason": str(self)}
        if self._raised:
            found["raised"] = [error.model_dump() for error in self._raised]
        return found


class StartedProcess:
    """A process that runs the module `program`, and a socket to it."""

    def __init__(self, program: str) -> None:
        self._process, self._channel = _start(program)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._channel.fileno() >= 0 and self._process.poll() is None

    def kill(self) -> int:
        """End it now; its exit code."""
        self._channel.close()
        self._process.kill()
        return self._process.wait()


def _start(program: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and this end of the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",  # threads that are there before a process is confined would not be
        **SWITCHES,
    }
    with ExitStack() as failed, theirs:
        failed.callback(ours.close)
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and a number
            [sys.executable, "-P", "-m", program, str(theirs.fileno())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # a terminal's Ctrl-C must not end it before requests are done
        )
        failed.pop_all()
    return process, ours


def shared_memory(opened: ExitStack, size: int, *, is_sealed: bool = False) -> int:
    """A descriptor of `size` bytes of memory without a name, closed with `opened`.

    It `is_sealed` against other sizes where this process maps it: cut short by the other, it would end this one.
    """
    descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    opened.callback(os.close, descriptor)
    os.ftruncate(descriptor, size)
    if is_sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
