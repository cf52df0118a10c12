"""Atomic writes of files and folders: written beside the target, synced, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from slidecascade.errors import SlideCascadeError, StorageFullError, UnwritableOutputError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Convert OSError of writes to `folder`; errors of the service that are an OSError pass unchanged.

    Raises:
        UnwritableOutputError: when a write fails; StorageFullError: because the disk or the quota is full.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, SlideCascadeError):
            raise
        reason = error.strerror or "unknown reason"
        kind = StorageFullError if error.errno in _FULL else UnwritableOutputError
        raise kind(
            f"Results cannot be written to {folder} ({reason}): free disk space or choose another folder."
        ) from error


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, unless they exist.

    Raises:
        UnwritableOutputError: when they cannot be created.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `path` atomically: other processes, also after a crash, see either the old file or the new one.

    Iterable `data` is written piece by piece, so that a large file needs little memory.

    Raises:
        UnwritableOutputError: when the write fails; an existing file is unchanged.
    """
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, files: Mapping[str, bytes | Iterable[bytes]]) -> None:
    """Write `files` by name into `folder`; all are synced before the first one is renamed into place.

    Raises:
        UnwritableOutputError: when a write fails; existing files are unchanged.
    """
    parts = {name: folder / f".{name}.partial-{os.getpid()}" for name in files}
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, data in files.items():
                _write_synced(parts[name], data)
            for name, part in parts.items():
                part.replace(folder / name)
            _sync(folder)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes have left half written by `write_files` in `folder`, not below it.

    A process that still writes there fails with UnwritableOutputError.
    """
    for left in folder.glob(".*.partial-*"):
        left.unlink(missing_ok=True)


@contextmanager
def staged_folder(folder: Path, *, replace: bool = False, is_durable: bool = True) -> Iterator[Path]:
    """A temporary folder that replaces `folder` when the block succeeds, and is removed when it fails.

    Args:
        folder: the target; must be absent or empty unless `replace`.
        replace: replace an existing folder once the new one is complete; it is restored if renaming fails.
        is_durable: sync every file first. Otherwise a power failure may leave a renamed folder with empty files,
            which is acceptable for a data set of many small files that can be regenerated.

    Raises:
        UnwritableOutputError: when a write fails, also one in the block.
    """
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            fresh = scratch / folder.name
            fresh.mkdir()
            yield fresh
            if is_durable:
                _sync_tree(fresh)
            _put_in_place(fresh, folder, replaced=scratch / "replaced" if replace else None)
            _sync(folder.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(fresh: Path, folder: Path, *, replaced: Path | None) -> None:
    had_older = folder.exists()
    if had_older and replaced is None:
        folder.rmdir()  # fails unless it is empty
    elif had_older and replaced is not None:
        folder.rename(replaced)
    try:
        fresh.rename(folder)
    except OSError:
        if had_older and replaced is not None:
            replaced.rename(folder)
        raise


def _write_synced(path: Path, data: bytes | Iterable[bytes]) -> None:
    with path.open("wb") as file:
        if isinstance(data, bytes):
            file.write(data)
        else:
            file.writelines(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    """Sync a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
