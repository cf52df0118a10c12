"""Errors: problem details, failed tiles and invalid fields."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from slidecascade.errors import InvalidRequestError
from slidecascade.wire.fields import MAX_NAME, Answer
from slidecascade.wire.media import PROBLEM_PREFIX

MAX_ERRORS = 20
"""Maximum number of field errors in a response."""


def refusal(error: ValidationError) -> InvalidRequestError:
    """An error with the first `MAX_ERRORS` invalid fields.

    Values from the request are not repeated, and names are truncated to `MAX_NAME` characters.
    """
    details = error.errors(include_url=False, include_input=False, include_context=False)
    wrong = tuple((_dotted(item["loc"]), _message(item)) for item in details[:MAX_ERRORS])
    field, message = wrong[0]
    others = f" and {len(details) - 1} more" if len(details) > 1 else ""
    return InvalidRequestError(f"The field {field!r} is invalid: {message}{others}.", wrong)


def _message(item: ErrorDetails) -> str:
    # Mostly a misspelt name; pydantic's own text ("Extra inputs are not permitted") does not say so.
    return "there is no such field, see /openapi.json" if item["type"] == "extra_forbidden" else item["msg"]


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ".".join(map(str, location)) or "request"
    return path if len(path) <= MAX_NAME else path[:MAX_NAME] + "..."


class FailedTile(Answer):
    """A tile that failed twice; position and size in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int
    reason: str


class FieldError(Answer):
    field: str
    message: str


class Problem(Answer):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[FieldError, ...] | None = None
    tiles: tuple[FailedTile, ...] | None = None

    @property
    def name(self) -> str:
        """The stable name, e.g. ``missing-resolution``."""
        return self.type.removeprefix(PROBLEM_PREFIX)
