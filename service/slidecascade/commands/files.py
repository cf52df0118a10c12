"""Checks of a command's input files, with one-sentence errors."""

from __future__ import annotations

from pathlib import Path

from slidecascade.errors import InvalidRequestError


def require_file(path: Path) -> None:
    """Check that `path` is a readable file.

    Raises:
        InvalidRequestError: otherwise.
    """
    if path.is_dir():
        raise InvalidRequestError(f"{path} is a folder: give the path of an image or a slide.")
    if not path.is_file():
        raise InvalidRequestError(f"The file {path} does not exist: give the path of an image or a slide.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise InvalidRequestError(f"The file {path} cannot be read ({reason}): check its permissions.") from error
