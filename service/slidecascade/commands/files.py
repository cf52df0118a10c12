"""Files that a command reads: what the system refuses is reported in one sentence."""

from __future__ import annotations

from pathlib import Path

from slidecascade.errors import InvalidRequestError


def require_file(path: Path) -> None:
    """See that `path` is a file and may be read; nothing is kept open.

    Raises:
        InvalidRequestError: otherwise.
    """
    if not path.is_file():
        raise InvalidRequestError(f"There is no file {path}: give the path of an image or a slide.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise InvalidRequestError(f"The file {path} cannot be read ({reason}).") from error
