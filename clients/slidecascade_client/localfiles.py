"""Files of an answer on the caller's disk."""

from __future__ import annotations

from slidecascade_client.errors import UnexpectedAnswerError


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
