"""Files that cannot be opened: those that are not there, and those that can be later.

A process without free file descriptors, a full system or a network share that does not answer says nothing about
the slide: a request is asked to come back, and a job waits.
"""

from __future__ import annotations

import errno
from typing import Final

from slidecascade.errors import NotReadyError

_GONE: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ENXIO,  # a socket, or a device that is not there
    }
)
_GONE_TYPES: Final = (FileNotFoundError, NotADirectoryError, PermissionError)
_RETRY_AFTER_S: Final = 5


def is_gone(error: OSError) -> bool:
    """Whether there is no such file, or none that may be read."""
    return isinstance(error, _GONE_TYPES) or error.errno in _GONE


def not_ready(error: OSError) -> NotReadyError:
    """What to raise for another error."""
    return NotReadyError(
        f"The slide or image cannot be opened now ({error.strerror or 'unknown reason'}): try again later; if "
        "that does not help, the operator should look at the disk and at the limit of open files.",
        retry_after_s=_RETRY_AFTER_S,
    )
