"""The folder of a process's sockets, and the removal of folders left by killed processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "slidecascade-sockets-"
_LONGEST_FOLDER = 90
"""In bytes; the maximum length of a socket's path is 107."""

_YOUNG_S = 60.0
"""A younger folder may not be locked yet."""


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A new folder accessible to this user only, because its sockets accept pickles."""
    with ExitStack() as opened:
        folder = tempfile.mkdtemp(prefix=PREFIX)
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            os.rmdir(folder)
            folder = tempfile.mkdtemp(prefix=PREFIX, dir="/tmp")  # mkdtemp's name is random
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        # The kernel releases the lock when this process ends, so the lock shows whether the folder is in use.
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_abandoned(Path(folder).parent)
        yield Path(folder)


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's folders of sockets in `parent` that no process has locked."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError), ExitStack() as opened:  # another user's, already removed, or in use
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, handle)
            status = os.fstat(handle)
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
