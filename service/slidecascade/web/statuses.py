"""The one table that gives each error its HTTP status, and what the API's document says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from slidecascade import errors

STATUS: Final[Mapping[type[errors.SlideCascadeError], int]] = {
    errors.MalformedRequestError: 400,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.UnknownSlideError: 404,
    errors.UnknownPipelineError: 404,
    errors.UnknownHeatmapError: 404,
    errors.UnknownModelError: 404,
    errors.UnknownChannelError: 404,
    errors.UnknownJobError: 404,
    errors.UnknownNotificationError: 404,
    errors.NotAcceptableError: 406,
    errors.SlowRequestError: 408,
    errors.JobNotFinishedError: 409,
    errors.JobFinishedError: 409,
    errors.SlideChangedError: 409,
    errors.ModelChangedError: 409,
    errors.UploadTooLargeError: 413,
    errors.RegionTooLargeError: 413,
    errors.ResultTooLargeError: 413,
    errors.UnsupportedMediaTypeError: 415,
    errors.InvalidRequestError: 422,
    errors.MissingResolutionError: 422,
    errors.ImplausibleResolutionError: 422,
    errors.UnusableStainError: 422,
    errors.RegionOutsideSlideError: 422,
    errors.UndecodableImageError: 422,
    errors.UnreadableSlideError: 422,
    errors.MisdirectedRequestError: 421,
    errors.IdempotencyMismatchError: 422,
    errors.OverloadedError: 429,
    errors.LimitExceededError: 429,
    errors.CancelledError: 499,  # the client has disconnected: for the log and the metrics
    errors.TilesFailedError: 500,
    errors.UnreadablePartError: 500,
    errors.ModelFailedError: 502,
    errors.DrainingError: 503,
    errors.NotReadyError: 503,
    errors.DeadlineExceededError: 504,
    errors.StorageFullError: 507,
}
"""HTTP status of each error of a request; others are internal errors (500)."""


def status_of(problem: str) -> int:
    """The HTTP status of a problem by its name; 500 if it is not an error of requests."""
    return next((status for kind, status in STATUS.items() if kind.problem == problem), 500)


Responses = dict[int | str, dict[str, Any]]
"""What FastAPI takes as the documented responses of a route."""


def problems(*kinds: type[errors.SlideCascadeError]) -> Responses:
    """The documented responses of a route that ends in errors of `kinds`; the document adds their content."""
    names: dict[int, list[str]] = {}
    for kind in kinds:
        names.setdefault(STATUS.get(kind, 500), []).append(f"`{kind.problem}`")
    return {status: {"description": " or ".join(found)} for status, found in names.items()}
