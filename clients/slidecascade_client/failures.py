"""What went wrong with one try, as a typed error."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from slidecascade.wire import Problem
from slidecascade_client.errors import (
    ConnectionFailedError,
    SlideCascadeClientError,
    TimedOutError,
    UnexpectedAnswerError,
    error_class,
)
from slidecascade_client.reply import Reply
from slidecascade_client.retry import RETRIED_STATUSES, read_retry_after_s

_PROBLEM_BYTES = 2**20  # a problem document is small; a proxy's page may not be

_HINTS = {
    401: "check api_key",
    403: "check api_key",
    404: "check that base_url is a SlideCascade service",
}


def failure_of_error(error: httpx.RequestError, *, origin: str, request_id: str) -> SlideCascadeClientError:
    """The error for a try that got no complete answer."""
    said = str(error) or type(error).__name__
    failure: SlideCascadeClientError
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        failure = TimedOutError(f"{origin} gave no complete answer in time; timeout_s allows more.")
    elif isinstance(error, httpx.DecodingError):
        failure = UnexpectedAnswerError(f"The answer of {origin} cannot be unpacked: {said}.")
    else:
        failure = ConnectionFailedError(f"The connection to {origin} failed: {said}.")
    failure.request_id = request_id
    failure.__cause__ = error
    return failure


def failure_of_reply(reply: Reply, *, origin: str) -> SlideCascadeClientError:
    """The error for an answer that is not a success; the reply is used up."""
    problem = _read_problem(reply)
    kind = error_class(problem.name if problem else None, reply.status)
    return kind(
        problem.detail if problem else _unexplained(reply.status, origin),
        status=reply.status,
        problem=problem,
        request_id=problem.request_id if problem else reply.request_id,
        retry_after_s=read_retry_after_s(reply.headers),
    )


def is_worth_a_retry(failure: SlideCascadeClientError) -> bool:
    """Whether the same request may succeed when it is sent again."""
    return isinstance(failure, ConnectionFailedError) or failure.status in RETRIED_STATUSES


def _read_problem(reply: Reply) -> Problem | None:
    content = reply.take(_PROBLEM_BYTES)
    try:
        return Problem.model_validate_json(content)
    except ValidationError:
        return None


def _unexplained(status: int, origin: str) -> str:
    hint = _HINTS.get(status, "it may come from a proxy in front of the service")
    return f"{origin} answered {status} without a problem document; {hint}."
