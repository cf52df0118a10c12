"""Folders and files that are whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidecascade.errors import InvalidRequestError, SlideCascadeError, UnwritableOutputError


def require_absent(folder: Path) -> None:
    """See that nothing is lost when `folder` is written.

    Raises:
        InvalidRequestError: it exists and is not an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidRequestError(f"{folder} is there already: remove it or choose another --out.")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends, and is removed when it fails.

    Raises:
        UnwritableOutputError: the system refused a write, in the block too: a full disk, say.
    """
    scratch: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        scratch.chmod(0o755)  # mkdtemp keeps a folder to its owner
        yield scratch
        if folder.exists():
            folder.rmdir()  # an empty one: see `require_absent`
        scratch.rename(folder)
    except OSError as error:
        if isinstance(error, SlideCascadeError):  # some of ours are an OSError too
            raise
        raise unwritable(folder, error) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` in one step: another process, or one after a crash, sees the old file or the new one.

    Raises:
        UnwritableOutputError: the system refused.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error


def unwritable(folder: Path, error: OSError) -> UnwritableOutputError:
    """The sentence for a write to `folder` that failed."""
    reason = error.strerror or "unknown reason"
    return UnwritableOutputError(
        f"Nothing can be written to {folder} ({reason}): make room or choose another folder."
    )
