"""Everything the client raises about a call, under one base.

    SlideCascadeClientError
    ├── ConnectionFailedError         no answer: refused, dropped, unknown host (a ConnectionError too)
    │   └── ProxyFailedError          the proxy in front of the service failed, or cannot be used
    ├── ClientClosedError             the client was used after its close (a RuntimeError too)
    ├── EventLoopError                an ``http_client`` was used in a second event loop (a RuntimeError too)
    ├── TimedOutError                 the call's time limit passed first (a TimeoutError too)
    ├── UnexpectedAnswerError         an answer that is not SlideCascade's: a portal's page, a redirect elsewhere
    ├── RetryLaterError               429 and 503
    │   └── OverloadedError, LimitExceededError, DrainingError, NotReadyError
    ├── RequestRefusedError           4xx: the request has to change
    │   ├── InvalidRequestError       also raised before anything is sent (a ValueError too)
    │   ├── MalformedRequestError, NotAcceptableError, UnsupportedMediaTypeError
    │   ├── UploadTooLargeError, RegionTooLargeError, RegionOutsideSlideError
    │   ├── ImplausibleResolutionError, UnusableStainError
    │   ├── MissingResolutionError, UndecodableImageError, UnreadableSlideError
    │   ├── UnknownSlideError, UnknownPipelineError, UnknownHeatmapError, UnknownModelError,
    │   │   UnknownChannelError
    │   ├── UnknownJobError, JobNotFinishedError, JobFinishedError, IdempotencyMismatchError, ResultTooLargeError,
    │   │   SlideChangedError, ModelChangedError, UnknownNotificationError
    │   ├── MisdirectedRequestError, RequestTimeoutError
    │   └── AccessDeniedError         401 and 403, from the service or a gate in front of it
    │       └── UnauthenticatedError, ForbiddenError
    ├── JobFailedError, JobCancelledError    how a job ended that was waited for
    └── ServiceFailedError            5xx: the request may be fine
        ├── InternalServiceError, ModelFailedError, TilesFailedError, StorageFullError, UnreadablePartError
        └── DeadlineExceededError     the request's own deadline passed (a TimeoutError too)

A class is chosen by the ``type`` of the problem document, which is stable; a type this version does not know,
or an answer without a problem document, falls back to the family of its status. Problems with local files
(`FileNotFoundError`, `PermissionError`) are raised as they are.
"""

from __future__ import annotations

from typing import ClassVar

from slidecascade.wire import FailedTile, FieldError, Problem


class SlideCascadeClientError(Exception):
    """Base of all errors of the client.

    Attributes:
        status: HTTP status, or None when there was no answer.
        problem: the service's problem document, or None when the response has none.
        request_id: the id to quote to the service's operator, or None when nothing was sent.
        retry_after_s: seconds the service asked to wait, or None.
        tries: how often the call was tried before this was raised.
    """

    problem_name: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Problem | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.problem = problem
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.tries = 1

    def __str__(self) -> str:
        facts = [
            self.problem.name if self.problem else "",
            f"HTTP {self.status}" if self.status else "",
            f"request {self.request_id}" if self.request_id else "",
            f"{self.tries} tries" if self.tries > 1 else "",
        ]
        known = ", ".join(fact for fact in facts if fact)
        return f"{self.message} ({known})" if known else self.message


class ConnectionFailedError(SlideCascadeClientError, ConnectionError):
    """No answer came: the service is not there, or the connection broke."""


class ProxyFailedError(ConnectionFailedError):
    """The proxy between client and service failed, so the request did not reach the service."""


class ClientClosedError(SlideCascadeClientError, RuntimeError):
    """The client, or the ``http_client`` it was given, is closed."""

    def __init__(
        self, message: str = "The client is closed: make a new one, or call before the end of its block."
    ) -> None:
        super().__init__(message)


class EventLoopError(SlideCascadeClientError, RuntimeError):
    """The connections of a given ``http_client`` belong to another event loop than the call."""


class TimedOutError(SlideCascadeClientError, TimeoutError):
    """The call's time limit passed before an answer was complete.

    ``last_error`` is the error of the previous attempt, or None during the first one.
    """

    last_error: SlideCascadeClientError | None = None


class UnexpectedAnswerError(SlideCascadeClientError):
    """Something answered, but not as a SlideCascade service does."""


class RetryLaterError(SlideCascadeClientError):
    """The same request may succeed later; ``retry_after_s`` is the delay that the service requested, if any."""


class OverloadedError(RetryLaterError):
    problem_name = "overloaded"


class LimitExceededError(RetryLaterError):
    """A limit of this key is used up; the message names it."""

    problem_name = "limit-exceeded"


class DrainingError(RetryLaterError):
    problem_name = "draining"


class NotReadyError(RetryLaterError):
    problem_name = "not-ready"


class RequestRefusedError(SlideCascadeClientError):
    """The request is invalid; repeating it fails again."""


class InvalidRequestError(RequestRefusedError, ValueError):
    """A field is invalid, as reported by the service, or by the client before sending (then without status)."""

    problem_name = "invalid-request"

    fields: tuple[FieldError, ...] = ()
    """What is wrong, when the client found it."""

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """The wrong fields, each with its dotted path and a message."""
        return (self.problem.errors or ()) if self.problem else self.fields


class MalformedRequestError(RequestRefusedError):
    problem_name = "malformed-request"


class NotAcceptableError(RequestRefusedError):
    problem_name = "not-acceptable"


class UnsupportedMediaTypeError(RequestRefusedError):
    problem_name = "unsupported-media-type"


class UploadTooLargeError(RequestRefusedError):
    problem_name = "upload-too-large"


class RegionTooLargeError(RequestRefusedError):
    problem_name = "region-too-large"


class RegionOutsideSlideError(RequestRefusedError):
    problem_name = "region-outside-slide"


class ImplausibleResolutionError(RequestRefusedError):
    problem_name = "implausible-resolution"


class UnusableStainError(RequestRefusedError):
    problem_name = "unusable-stain"


class MissingResolutionError(RequestRefusedError):
    problem_name = "missing-resolution"


class UndecodableImageError(RequestRefusedError):
    problem_name = "undecodable-image"


class UnreadableSlideError(RequestRefusedError):
    problem_name = "unreadable-slide"


class UnknownSlideError(RequestRefusedError):
    problem_name = "unknown-slide"


class UnknownPipelineError(RequestRefusedError):
    problem_name = "unknown-pipeline"


class UnknownHeatmapError(RequestRefusedError):
    problem_name = "unknown-heatmap"


class UnknownChannelError(RequestRefusedError):
    problem_name = "unknown-channel"


class UnknownModelError(RequestRefusedError):
    problem_name = "unknown-model"


class UnknownJobError(RequestRefusedError):
    problem_name = "unknown-job"


class UnknownNotificationError(RequestRefusedError):
    problem_name = "unknown-notification"


class JobNotFinishedError(RequestRefusedError):
    problem_name = "job-not-finished"


class JobFinishedError(RequestRefusedError):
    problem_name = "job-finished"


class IdempotencyMismatchError(RequestRefusedError):
    problem_name = "idempotency-mismatch"


class ResultTooLargeError(RequestRefusedError):
    problem_name = "result-too-large"


class MisdirectedRequestError(RequestRefusedError):
    problem_name = "misdirected-request"


class RequestTimeoutError(RequestRefusedError):
    problem_name = "request-timeout"


class AccessDeniedError(RequestRefusedError):
    """The key is missing, wrong, or not enough (401 and 403)."""


class UnauthenticatedError(AccessDeniedError):
    """No key or token was sent, or one that is wrong, revoked or expired."""

    problem_name = "unauthenticated"


class ForbiddenError(AccessDeniedError):
    """The key or token lacks the scope that the message names."""

    problem_name = "forbidden"


class ServiceFailedError(SlideCascadeClientError):
    """The service, or something in front of it, failed."""


class InternalServiceError(ServiceFailedError):
    problem_name = "internal-error"


class ModelFailedError(ServiceFailedError):
    problem_name = "model-failed"


class TilesFailedError(ServiceFailedError):
    """Some tiles failed twice; ``allow_partial=True`` takes the rest."""

    problem_name = "tiles-failed"

    @property
    def tiles(self) -> tuple[FailedTile, ...]:
        """The failed tiles, in level-0 pixels, with the reason."""
        return (self.problem.tiles or ()) if self.problem else ()


class StorageFullError(ServiceFailedError):
    """There is no room for the results of another job."""

    problem_name = "storage-full"


class SlideChangedError(RequestRefusedError):
    """A job failed because its slide was replaced while it ran."""

    problem_name = "slide-changed"


class ModelChangedError(RequestRefusedError):
    """A job failed because models, pipeline or program were replaced while it ran."""

    problem_name = "model-changed"


class UnreadablePartError(ServiceFailedError):
    """A part of a job's results is missing or damaged on the service's disk."""

    problem_name = "unreadable-part"


class JobFailedError(SlideCascadeClientError):
    """A job failed; ``problem`` has the cause."""


class JobCancelledError(SlideCascadeClientError):
    """A job that was waited for was cancelled."""


class DeadlineExceededError(ServiceFailedError, TimeoutError):
    problem_name = "deadline-exceeded"


_BY_STATUS: dict[int, type[SlideCascadeClientError]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    429: RetryLaterError,
    503: RetryLaterError,
}
_BY_FAMILY: dict[int, type[SlideCascadeClientError]] = {4: RequestRefusedError, 5: ServiceFailedError}


def _named(base: type[SlideCascadeClientError]) -> dict[str, type[SlideCascadeClientError]]:
    """The classes below `base` by problem name."""
    found = {base.problem_name: base} if base.problem_name else {}
    for child in base.__subclasses__():
        found |= _named(child)
    return found


_BY_NAME = _named(SlideCascadeClientError)


def error_class(name: str | None, status: int) -> type[SlideCascadeClientError]:
    """The class for a problem called `name` (None: no problem document) answered with `status`."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    return _BY_STATUS.get(status) or _BY_FAMILY.get(status // 100, UnexpectedAnswerError)
