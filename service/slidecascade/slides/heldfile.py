"""A slide's file held by a descriptor, so that what was checked is what is read.

Between the check of a path and its opening, whoever may write below a slide root can put a link, a pipe or another
file in its place; OpenSlide opens by path, and opens again while it reads. A file that is held is opened folder by
folder without following links, and named by its descriptor (``/proc/self/fd``): that name leads to this file
whatever happens to its path.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, Self

_DESCRIPTORS: Final = Path("/proc/self/fd")
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""Opening a pipe without a writer returns, instead of waiting for one."""


class HeldFile:
    """A regular file that stays open; `close` it when no name of it is used any more."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @classmethod
    def below(cls, folder: Path, path: Path) -> Self:
        """The file at `path` in `folder`; both are resolved, so that a link on the way was not there before.

        Raises:
            OSError: there is no regular file, or a link leads to it.
        """
        opened = os.open(folder, _FOLDER)
        try:
            *folders, name = path.relative_to(folder).parts
            for part in folders:
                inner = os.open(part, _FOLDER, dir_fd=opened)
                os.close(opened)
                opened = inner
            held = cls(os.open(name, _FILE, dir_fd=opened), path)
        finally:
            os.close(opened)
        if not stat.S_ISREG(os.fstat(held._descriptor).st_mode):
            held.close()
            raise FileNotFoundError("The slide's file was replaced by something that is no file: put it back.")
        return held

    @property
    def descriptor(self) -> int:
        """Its number in this process, until it is closed."""
        return self._descriptor

    @property
    def path(self) -> Path:
        """A name that leads to this file alone; the path it was opened by where the system has no such names."""
        return _DESCRIPTORS / str(self._descriptor) if _DESCRIPTORS.is_dir() else self._path

    @property
    def state(self) -> tuple[int, ...]:
        """As `file_state` of the path, of the file that is held."""
        return state_of(os.fstat(self._descriptor))

    def close(self) -> None:
        """Release the descriptor, whose number may then name another file."""
        os.close(self._descriptor)


def file_state(path: Path) -> tuple[int, ...]:
    """Changes when the file is replaced or written to; raises OSError when there is none."""
    return state_of(path.stat())


def state_of(found: os.stat_result) -> tuple[int, ...]:
    """What differs between two files, and between a file and the same one written to."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
