"""Files of an answer on the caller's disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

from slidecascade_client.errors import UnexpectedAnswerError
from slidecascade_client.reply import Reply

_COPY_BYTES = 2**20


def is_inside(name: str) -> bool:
    """Whether `name` is a plain relative path on every system."""
    parts = name.split("/")
    return not (set(parts) & {"", ".", ".."}) and not set(name) & set("\\:\0")


def stays_inside(name: str) -> str:
    """`name`, when it is a plain relative path; raises UnexpectedAnswerError otherwise."""
    if not is_inside(name):
        raise UnexpectedAnswerError(
            "The service names a file outside the folder, so nothing was written: check base_url."
        )
    return name


def save_file(reply: Reply, name: str, folder: Path) -> None:
    """Write the body of `reply` to `name` in `folder`, in one step; the body is closed.

    Raises:
        OSError: when it cannot be written.
    """
    target = folder / name
    with reply.body as packed:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                shutil.copyfileobj(packed, file, _COPY_BYTES)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
