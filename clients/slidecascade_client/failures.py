"""What went wrong with one try, as a typed error."""

from __future__ import annotations

import ssl

import httpx
from pydantic import ValidationError

from slidecascade.wire import JobBatchItem, Problem
from slidecascade_client.errors import (
    ConnectionFailedError,
    ProxyFailedError,
    SlideCascadeClientError,
    TimedOutError,
    UnexpectedAnswerError,
    error_class,
)
from slidecascade_client.proxy import REMEDY
from slidecascade_client.reply import Reply
from slidecascade_client.retry import RETRIED_STATUSES, read_retry_after_s

_PROBLEM_BYTES = 2**20  # a problem document is small; a proxy's page may not be

_PROXY_WANTS_CREDENTIALS = 407
_HINTS = {
    401: "check api_key",
    403: "check api_key",
    404: "check that base_url is a SlideCascade service",
}


def failure_of_error(
    error: httpx.RequestError, *, origin: str, request_id: str, proxy: str | None = None
) -> SlideCascadeClientError:
    """The error for a try that got no complete answer; `proxy` is the one it went through."""
    said = str(error) or type(error).__name__
    through = f" through the proxy {proxy}" if proxy else ""
    failure: SlideCascadeClientError
    if isinstance(error, httpx.ProxyError) or (
        proxy and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    ):
        failure = ProxyFailedError(f"The proxy {proxy or 'in use'} to {origin} failed: {said}; {REMEDY}.")
    elif isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        failure = TimedOutError(f"{origin} gave no complete answer{through} in time; timeout_s allows more.")
    elif isinstance(error, httpx.DecodingError):
        failure = UnexpectedAnswerError(f"The answer of {origin}{through} cannot be unpacked: {said}.")
    else:
        # Certificates and forbidden requests have other remedies, which `said` names.
        is_unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not _is_lasting(error)
        hint = "; check the address, and that the service is running" if is_unreachable else ""
        failure = ConnectionFailedError(f"The connection to {origin}{through} failed: {said}{hint}.")
    failure.request_id = request_id
    failure.__cause__ = error
    return failure


def failure_of_reply(reply: Reply, *, origin: str, proxy: str | None = None) -> SlideCascadeClientError:
    """The error for an answer that is not a success, which came through `proxy`; the reply is used up."""
    problem = _read_problem(reply)
    kind = error_class(problem.name if problem else None, reply.status)
    if reply.status == _PROXY_WANTS_CREDENTIALS:
        kind = ProxyFailedError
    return kind(
        problem.detail if problem else _unexplained(reply.status, origin, proxy),
        status=reply.status,
        problem=problem,
        request_id=problem.request_id if problem else reply.request_id,
        retry_after_s=read_retry_after_s(reply.headers),
    )


def failure_of_item(item: JobBatchItem) -> SlideCascadeClientError:
    """The error for a job of a batch that was rejected."""
    problem = item.problem
    return error_class(problem.name if problem else None, item.status)(
        problem.detail if problem else "The service does not say why.",
        status=item.status,
        problem=problem,
        request_id=problem.request_id if problem else None,
    )


def is_worth_a_retry(failure: SlideCascadeClientError) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if failure.status is not None:
        return failure.status in RETRIED_STATUSES
    return isinstance(failure, ConnectionFailedError) and not _is_lasting(failure.__cause__)


def _is_lasting(error: BaseException | None) -> bool:
    """Whether `error` is of a kind that waiting does not mend: certificates, or a request that HTTP forbids."""
    if isinstance(error, ssl.SSLCertVerificationError | httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return True
    # httpx wraps errors of the ssl module twice.
    return error is not None and _is_lasting(error.__cause__ or error.__context__)


def _read_problem(reply: Reply) -> Problem | None:
    content = reply.take(_PROBLEM_BYTES)
    try:
        return Problem.model_validate_json(content)
    except ValidationError:
        return None


def _unexplained(status: int, origin: str, proxy: str | None) -> str:
    if proxy is None:
        hint = _HINTS.get(status, "it may come from a proxy in front of the service")
        return f"{origin} answered {status} without a problem document; {hint}."
    return (
        f"{status} came back for {origin} through the proxy {proxy}, without a problem document of the service, "
        f"so that it may be the proxy's own: {_HINTS.get(status, REMEDY)}."
    )
