"""Everything that can go wrong, under one base.

    SlideCascadeError
    ├── MalformedRequestError        the body is not what the content type says
    ├── InvalidRequestError          a field has a value that cannot be used
    ├── NotAcceptableError           no answer in the media type asked for
    ├── UnsupportedMediaTypeError    the request's media type is not read here
    ├── UploadTooLargeError          too many bytes
    ├── RegionTooLargeError          too many pixels (reported before decoding)
    ├── UndecodableImageError        the upload is not a readable image
    ├── MissingResolutionError       no pixel size in the source, none in the request
    ├── ImplausibleResolutionError   a pixel size that no microscope makes
    ├── UnusableStainError           the colours of a slide cannot be normalised
    ├── RegionOutsideSlideError      the region is not inside the slide
    ├── UnknownSlideError, UnknownPipelineError, UnknownHeatmapError, UnknownModelError, UnknownJobError,
    │   UnknownChannelError
    ├── JobNotFinishedError, JobFinishedError    the job is not in the state that the request needs
    ├── ResultTooLargeError          more cells were asked for than are sent at a time
    ├── IdempotencyMismatchError     the key was used before with another body
    ├── SlideChangedError            the slide is not the one that the job began with
    ├── ModelChangedError            models, pipeline or program are not those that the job began with
    ├── UnreadablePartError          a part of an analysis is missing or damaged
    ├── UnreadableSlideError         OpenSlide cannot open or read the slide
    ├── OverloadedError, DrainingError, NotReadyError    try again later
    ├── DeadlineExceededError        the request's own time limit passed
    ├── SlowRequestError             the head of a request did not arrive in time
    ├── MisdirectedRequestError      the request is for a host that is not served here
    ├── UnauthenticatedError         no key or token, or one that is not valid
    ├── ForbiddenError               the key or token lacks a scope
    ├── LimitExceededError           a limit of this key or token
    ├── CancelledError               the caller went away
    ├── ModelFailedError             a network raised or returned what it must not
    ├── TilesFailedError             tiles failed twice and a partial answer was not allowed
    ├── ModelPackageError            a model package that must not be served (reported at start)
    ├── HeadPluginError              an installed package whose head clashes or is broken (reported at start)
    ├── ConversionError              a checkpoint that cannot become a served model
    ├── PipelineSpecError            a pipeline file that cannot be run (reported at start)
    ├── UnusableDataError            annotations or a data set that cannot be learned from
    ├── TrainingFailedError          a training run that cannot go on
    ├── SettingsError                a setting that cannot be used (reported at start)
    ├── ListenError                  the address to serve at is taken or not ours (reported at start)
    ├── BrokenAuditLogError          the audit log was changed or is damaged
    ├── UnwritableOutputError        results cannot be written where they should go
    │   └── StorageFullError         they have no room on the disk
    └── MissingExtraError            an optional part of the installation is needed

Each class carries the stable problem name of the public contract and a title; the message is one sentence
that says what was wrong and what to do. HTTP status codes live in ``web/statuses.py`` only.
"""

from __future__ import annotations

from typing import ClassVar


class SlideCascadeError(Exception):
    """Base of all errors this package raises on purpose."""

    problem: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    @property
    def detail(self) -> str:
        """The sentence for the user."""
        return str(self)


def release_frames(error: BaseException) -> None:
    """Let go of the stack that an error passed, once the error has been handled and logged.

    A frame of that stack usually refers to the error again (a future, the record of the request), and to the body
    of the request: without this all of it would stay in memory until the cycle collector comes by.
    """
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        current = left.pop()
        if current is not None and current not in seen:
            seen.append(current)
            current.__traceback__ = None
            left += [current.__cause__, current.__context__]


class MalformedRequestError(SlideCascadeError):
    problem, title = "malformed-request", "Malformed request"


class InvalidRequestError(SlideCascadeError):
    """A field is wrong. ``errors`` lists them: each with ``field`` (dotted path) and ``message``."""

    problem, title = "invalid-request", "Invalid request"

    def __init__(self, detail: str, errors: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.errors = errors


class NotAcceptableError(SlideCascadeError):
    problem, title = "not-acceptable", "Not acceptable"


class UnsupportedMediaTypeError(SlideCascadeError):
    problem, title = "unsupported-media-type", "Unsupported media type"


class UploadTooLargeError(SlideCascadeError):
    problem, title = "upload-too-large", "Upload too large"


class RegionTooLargeError(SlideCascadeError):
    problem, title = "region-too-large", "Region too large"


class UndecodableImageError(SlideCascadeError):
    problem, title = "undecodable-image", "Undecodable image"


class ImplausibleResolutionError(SlideCascadeError):
    problem = "implausible-resolution"
    title = "Implausible resolution"


class UnusableStainError(SlideCascadeError):
    problem, title = "unusable-stain", "Unusable stain"


class MissingResolutionError(SlideCascadeError):
    problem, title = "missing-resolution", "Missing resolution"


class RegionOutsideSlideError(SlideCascadeError):
    problem, title = "region-outside-slide", "Region outside slide"


class UnknownSlideError(SlideCascadeError, LookupError):
    problem, title = "unknown-slide", "Unknown slide"


class UnknownPipelineError(SlideCascadeError, LookupError):
    problem, title = "unknown-pipeline", "Unknown pipeline"


class UnknownHeatmapError(SlideCascadeError, LookupError):
    problem, title = "unknown-heatmap", "Unknown heatmap"


class UnknownChannelError(SlideCascadeError, LookupError):
    problem, title = "unknown-channel", "Unknown channel"


class UnknownModelError(SlideCascadeError, LookupError):
    problem, title = "unknown-model", "Unknown model"


class UnknownJobError(SlideCascadeError, LookupError):
    problem, title = "unknown-job", "Unknown job"


class UnknownNotificationError(SlideCascadeError, LookupError):
    problem, title = "unknown-notification", "Unknown notification"


class JobNotFinishedError(SlideCascadeError):
    problem, title = "job-not-finished", "Job not finished"


class JobFinishedError(SlideCascadeError):
    problem, title = "job-finished", "Job finished"


class ResultTooLargeError(SlideCascadeError):
    problem, title = "result-too-large", "Result too large"


class IdempotencyMismatchError(SlideCascadeError):
    problem, title = "idempotency-mismatch", "Idempotency mismatch"


class SlideChangedError(SlideCascadeError):
    problem, title = "slide-changed", "Slide changed"


class ModelChangedError(SlideCascadeError):
    problem, title = "model-changed", "Model changed"


class UnreadablePartError(SlideCascadeError):
    problem, title = "unreadable-part", "Unreadable part"


class UnreadableSlideError(SlideCascadeError):
    problem, title = "unreadable-slide", "Unreadable slide"


class RetryLaterError(SlideCascadeError):
    """The same request may succeed later; ``retry_after_s`` says when to try."""

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class OverloadedError(RetryLaterError):
    problem, title = "overloaded", "Overloaded"


class DrainingError(RetryLaterError):
    problem, title = "draining", "Draining"


class NotReadyError(RetryLaterError):
    problem, title = "not-ready", "Not ready"


class LimitExceededError(RetryLaterError):
    problem, title = "limit-exceeded", "Limit exceeded"


class UnauthenticatedError(SlideCascadeError):
    """``challenges`` are the values of WWW-Authenticate."""

    problem, title = "unauthenticated", "Unauthenticated"

    def __init__(self, detail: str, *, challenges: tuple[str, ...] = ('Bearer realm="slidecascade"',)) -> None:
        super().__init__(detail)
        self.challenges = challenges


class ForbiddenError(SlideCascadeError):
    problem, title = "forbidden", "Forbidden"


class DeadlineExceededError(SlideCascadeError, TimeoutError):
    problem, title = "deadline-exceeded", "Deadline exceeded"


class SlowRequestError(SlideCascadeError):
    problem, title = "request-timeout", "Request timeout"


class MisdirectedRequestError(SlideCascadeError):
    problem, title = "misdirected-request", "Misdirected request"


class CancelledError(SlideCascadeError):
    """The caller went away; nobody reads this message but the log."""

    problem, title = "cancelled", "Cancelled"


class ModelFailedError(SlideCascadeError):
    problem, title = "model-failed", "Model failed"


class TilesFailedError(SlideCascadeError):
    """``tiles`` lists the failed tiles as (x, y, width, height) in level-0 pixels with the reason."""

    problem, title = "tiles-failed", "Tiles failed"

    def __init__(self, detail: str, *, tiles: tuple[tuple[tuple[int, int, int, int], str], ...]) -> None:
        super().__init__(detail)
        self.tiles = tiles


class ModelPackageError(SlideCascadeError):
    problem, title = "model-package", "Model package refused"


class HeadPluginError(SlideCascadeError):
    problem, title = "head-plugin", "Head refused"


class ConversionError(SlideCascadeError):
    problem, title = "conversion", "Conversion refused"


class PipelineSpecError(SlideCascadeError):
    problem, title = "pipeline-spec", "Pipeline refused"


class UnusableDataError(SlideCascadeError):
    problem, title = "unusable-data", "Unusable data"


class TrainingFailedError(SlideCascadeError):
    problem, title = "training-failed", "Training failed"


class SettingsError(SlideCascadeError):
    problem, title = "settings", "Unusable setting"


class ListenError(SlideCascadeError):
    problem, title = "listen", "Cannot listen"


class BrokenAuditLogError(SlideCascadeError):
    problem, title = "broken-audit-log", "Broken audit log"


class UnwritableOutputError(SlideCascadeError, OSError):
    problem, title = "unwritable-output", "Unwritable output"


class StorageFullError(UnwritableOutputError):
    problem, title = "storage-full", "Storage full"


class MissingExtraError(SlideCascadeError, ImportError):
    problem, title = "missing-extra", "Missing extra"

    @classmethod
    def of(cls, package: str | None, extra: str, purpose: str) -> MissingExtraError:
        """`package` is missing, which comes with `extra`; `purpose`: what needs it, such as ``for `x` ``.

        SlideCascade is not on a package index: naming one there would install a stranger's package.
        """
        return cls(
            f"{package} is not installed: install the extra {extra!r} {purpose}, by `pip install '.[{extra}]'` in "
            "a checkout of SlideCascade."
        )
