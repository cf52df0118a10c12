"""Files the commands read and write: what the system refuses becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slidecascade.errors import InvalidRequestError, UnwritableOutputError


def require_file(path: Path) -> None:
    """Hold on to nothing, but see that `path` is a file and may be read.

    Raises:
        InvalidRequestError: otherwise.
    """
    if not path.is_file():
        raise InvalidRequestError(f"There is no file {path}: give the path of an image or a slide.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InvalidRequestError(f"The file {path} cannot be read ({_reason(error)}).") from error


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Around nothing but writes to `folder`.

    Raises:
        UnwritableOutputError: when one of them fails.
    """
    try:
        yield
    except OSError as error:
        raise UnwritableOutputError(f"Results cannot be written to {folder} ({_reason(error)}).") from error


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` by name into `folder`; all of them are on the disk before the first one is seen there.

    Raises:
        UnwritableOutputError: when one cannot be written; what was there before is as it was.
    """
    parts = {name: folder / f".{name}.part" for name in files}
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, content in files.items():
                parts[name].write_bytes(content)
            for name, part in parts.items():
                part.replace(folder / name)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return error.strerror or "unknown reason"
