"""The routes of jobs: submit, list, show, cancel, retry and delete; those of events and results are added."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import errors, wire
from slidecascade.errors import InvalidRequestError
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.records import JobRecord, is_job_id
from slidecascade.web.joblayers import add_layers
from slidecascade.web.jobresults import add_results
from slidecascade.web.jobstate import StatusOf, add_events, job_info
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.notifications import add_notifications
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems
from slidecascade.web.submission import Problem, Submissions

MAX_LISTED: Final = 500
_KEY_HEADER: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_JOB: Final = {"$ref": "#/components/schemas/JobRequest"}
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            wire.JSON: {"schema": _JOB},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["request", "image"],
                    "additionalProperties": False,
                    "properties": {
                        "request": _JOB,
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "PNG, JPEG, TIFF or WebP; a TIFF that OpenSlide reads is a slide",
                        },
                    },
                },
                "encoding": {"request": {"contentType": wire.JSON}},
            },
        },
    },
    "parameters": [_KEY_HEADER],
}
_BATCH: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["jobs"],
    "additionalProperties": False,
    "properties": {
        "jobs": {
            "type": "array",
            "minItems": 1,
            "maxItems": wire.MAX_BATCH,
            "description": "each an object like the first; an invalid one is answered with its problem",
            "items": {"anyOf": [{"$ref": "#/components/schemas/JobOrder"}, {"type": "object"}]},
        }
    },
}
_BATCH_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {wire.JSON: {"schema": _BATCH}}},
    "parameters": [_KEY_HEADER],
}

_SUBMIT_ERRORS: Final = (
    errors.MalformedRequestError,
    errors.UnknownSlideError,
    errors.UnknownPipelineError,
    errors.UploadTooLargeError,
    errors.UnsupportedMediaTypeError,
    InvalidRequestError,
    errors.MissingResolutionError,
    errors.ImplausibleResolutionError,
    errors.UnusableStainError,
    errors.RegionOutsideSlideError,
    errors.RegionTooLargeError,
    errors.UndecodableImageError,
    errors.UnreadableSlideError,
    errors.IdempotencyMismatchError,
    errors.OverloadedError,
    errors.NotReadyError,
    errors.DeadlineExceededError,
    errors.StorageFullError,
)
_BATCH_ERRORS: Final = (
    errors.MalformedRequestError,
    errors.UploadTooLargeError,
    errors.UnsupportedMediaTypeError,
    InvalidRequestError,
    errors.NotReadyError,
    errors.DeadlineExceededError,
)


def job_routes(
    desk: Desk,
    submissions: Submissions,
    lookups: Pool,
    pictures: Pool,
    status_of: StatusOf,
    problem_of: Problem,
    *,
    is_open: Callable[[], bool],
) -> APIRouter:
    """The routes for `desk`; `lookups` runs blocking disk access, `pictures` opens slides.

    Event streams end when the server shuts down.
    """
    router = APIRouter(prefix="/v1", tags=["jobs"])
    _add_submissions(router, submissions, status_of, problem_of)
    _add_states(router, desk, lookups, status_of)
    add_events(router, desk, lookups, status_of, is_open)
    add_results(router, desk, lookups)
    add_layers(router, desk, lookups, pictures)
    add_notifications(router, desk, lookups)
    return router


def _add_submissions(
    router: APIRouter, submissions: Submissions, status_of: StatusOf, problem_of: Problem
) -> None:
    def info(record: JobRecord) -> wire.JobInfo:
        return job_info(record, status_of)

    @router.post(
        "/jobs",
        summary="Analyse a slide as a job",
        status_code=202,
        responses={200: {"model": wire.JobInfo}, 202: {"model": wire.JobInfo}, **problems(*_SUBMIT_ERRORS)},
        response_class=Response,
        openapi_extra=_REQUEST_BODY,
    )
    async def submit(request: Request) -> Response:
        accepted = await submissions.accept(request)
        job = info(accepted.record)
        return Response(
            job.model_dump_json(),
            status_code=202 if accepted.is_new else 200,
            headers={"Location": job.links.self},
            media_type=wire.JSON,
        )

    @router.post(
        "/jobs:batch",
        summary="Submit up to 500 jobs",
        responses=problems(*_BATCH_ERRORS),
        openapi_extra=_BATCH_BODY,
    )
    async def submit_batch(request: Request) -> wire.JobBatchResult:
        return await submissions.accept_batch(request, info, problem_of)


def _add_states(router: APIRouter, desk: Desk, lookups: Pool, status_of: StatusOf) -> None:
    def info(record: JobRecord) -> wire.JobInfo:
        return job_info(record, status_of)

    @router.get("/jobs", summary="List jobs, the newest first")
    async def list_jobs(
        request: Request,
        status: wire.JobStatus | None = None,
        label: Annotated[str | None, Query(pattern=wire.TEXT)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        cursor: str | None = None,
    ) -> wire.JobList:
        before = None if cursor is None else _position(cursor)
        records = await lookups.run(
            desk.list, caller_of(request), limit=limit + 1, before=before, status=status, label=label
        )
        shown = records[:limit]
        more = _cursor(shown[-1]) if len(records) > limit else None
        return wire.JobList(jobs=tuple(map(info, shown)), cursor=more)

    @router.get("/jobs/{job_id}", summary="Show a job", responses=problems(errors.UnknownJobError))
    async def show(job_id: str, request: Request) -> wire.JobInfo:
        return info(await lookups.run(desk.show, job_id, caller_of(request)))

    @router.post(
        "/jobs/{job_id}/cancel",
        summary="Stop a job",
        responses=problems(errors.UnknownJobError, errors.JobFinishedError),
    )
    async def cancel(job_id: str, request: Request) -> wire.JobInfo:
        return info(await lookups.run(desk.cancel, job_id, caller_of(request)))

    @router.post(
        "/jobs/{job_id}/retry",
        summary="Resume a job that failed or was cancelled",
        status_code=202,
        responses=problems(
            errors.UnknownJobError,
            errors.JobFinishedError,
            errors.JobNotFinishedError,
            errors.OverloadedError,
            errors.NotReadyError,
        ),
    )
    async def retry(job_id: str, request: Request) -> wire.JobInfo:
        return info(await lookups.run(desk.retry, job_id, caller_of(request)))

    @router.delete(
        "/jobs/{job_id}",
        summary="Delete a finished job and its results",
        status_code=204,
        responses=problems(errors.UnknownJobError, errors.JobNotFinishedError),
    )
    async def delete(job_id: str, request: Request) -> Response:
        await lookups.run(desk.delete, job_id, caller_of(request))
        return Response(status_code=204)


def _cursor(record: JobRecord) -> str:
    return base64.urlsafe_b64encode(f"{record.created_at!r} {record.id}".encode()).decode()


def _position(cursor: str) -> tuple[float, str]:
    try:
        created_at, job = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        if not math.isfinite(seconds := float(created_at)) or not is_job_id(job):
            raise ValueError(cursor)
        return seconds, job
    except ValueError:
        message = "'cursor' is invalid: send the cursor of the previous list."
        raise InvalidRequestError(message, (("cursor", message),)) from None
