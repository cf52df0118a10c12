"""A folder of work that is locked by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidecascade.errors import UnwritableOutputError
from slidecascade.staging import make_folder, remove_partial_files, writing_to


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """`folder`, made if needed, for this process alone; removed when the block ends, kept when it fails.

    The claim ends with the process, however that ends. Files that a killed process has left half written in the
    folder around it are removed.

    Raises:
        UnwritableOutputError: the folder cannot be made, or another process works in it.
    """
    make_folder(folder)
    with writing_to(folder):
        handle = locked(folder)
    if handle is None:
        raise UnwritableOutputError(
            f"Another process is writing results to {folder.parent}: wait for it, or choose another folder."
        )
    try:
        remove_partial_files(folder.parent)
        remove_partial_files(folder.parent / "heatmaps")
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def locked(folder: Path) -> int | None:
    """An open file that locks `folder` until it is closed or the process ends; None where another has the lock."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
