"""A separate process for untrusted files: bounded memory and time, no network, no inherited secrets."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from slidecascade.confinement import leave_network, limit
from slidecascade.errors import ConversionError
from slidecascade.privacy import SWITCHES

TIME_LIMIT_S: Final = 1800.0
MAX_MEMORY_BYTES: Final = 24 * 2**30
_MAX_FILE_BYTES: Final = 8 * 2**30

# Linux: this process ends when the one that started it is killed and cannot end it.
_END_WITH_PARENT = 1

_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


def confine(memory_bytes: int) -> bool:
    """Limit this process for the rest of its life; whether it was also cut off the network.

    Called before any library starts threads: a process with threads cannot change its namespaces.
    """
    limit(resource.RLIMIT_DATA, memory_bytes)
    limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    with suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    return leave_network()


def usable_memory_bytes() -> int:
    """Nine tenths of the machine's memory, at most `MAX_MEMORY_BYTES`."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(MAX_MEMORY_BYTES, machine * 9 // 10)


def run_confined(folder: Path, *, memory_bytes: int | None = None, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Run the worker on the request in `folder`, which is also its home.

    Raises:
        ConversionError: when it needs more memory or time than it is given, or dies.
    """
    memory = memory_bytes or usable_memory_bytes()
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment |= {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": str(folder),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        **SWITCHES,
    }
    command = [sys.executable, "-P", "-m", "slidecascade_convert.worker", str(folder), str(memory)]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and two arguments made here
            command, env=environment, capture_output=True, timeout=time_limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConversionError(
            f"The conversion took longer than {time_limit_s:g} s: give a smaller network or a faster machine."
        ) from error
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise ConversionError(
            f"The conversion stopped without an answer, perhaps for want of memory ({memory / 2**30:.1f} GiB were "
            f"allowed): give a smaller network or a larger machine. ({last[0][:200]})"
        )
