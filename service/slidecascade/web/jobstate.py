"""The state of a job in the format of the API, and as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slidecascade import errors, wire
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.records import Failure, JobRecord
from slidecascade.web.middleware.auth import caller_of, is_still_valid
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems

EVENTS: Final = "text/event-stream"
_LOOK_S: Final = 0.5
"""Polling interval of the events of a job."""

StatusOf = Callable[[str], int]
"""Returns the HTTP status of a problem by its name."""


def add_events(
    router: APIRouter, desk: Desk, lookups: Pool, status_of: StatusOf, is_open: Callable[[], bool]
) -> None:
    @router.get(
        "/jobs/{job_id}/events",
        summary="Follow a job",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events `progress` and `done`.",
                "content": {EVENTS: {"schema": {}}},
            },
            **problems(errors.UnknownJobError),
        },
    )
    async def follow(job_id: str, request: Request) -> Response:
        await lookups.run(desk.show, job_id, caller_of(request))

        async def look() -> JobRecord | None:
            if not is_open() or not await is_still_valid(request):
                return None
            return await lookups.run(desk.show, job_id, caller_of(request))

        events = _events(look, lambda record: job_info(record, status_of), request.headers.get("last-event-id"))
        return StreamingResponse(events, media_type=EVENTS)


def job_info(record: JobRecord, status_of: StatusOf) -> wire.JobInfo:
    """A job in the format of the API."""
    path = f"/v1/jobs/{record.id}"
    succeeded = record.status == "succeeded"
    error = None
    if (failure := record.failure) is not None:
        error = wire.Problem(
            type=wire.PROBLEM_PREFIX + failure.problem,
            title=failure.title,
            status=status_of(failure.problem),
            detail=failure.detail,
            request_id=record.request_id,
            errors=_field_errors(failure),
        )
    return wire.JobInfo(
        id=record.id,
        status=record.status,
        pipeline=record.request.pipeline,
        slide=record.request.slide,
        label=record.request.label,
        created_at=_utc(record.created_at),
        started_at=None if record.started_at is None else _utc(record.started_at),
        finished_at=None if record.finished_at is None else _utc(record.finished_at),
        progress=_progress(record),
        error=error,
        links=wire.JobLinks(
            self=path,
            events=f"{path}/events",
            result=f"{path}/result" if succeeded else None,
            files=f"{path}/files" if succeeded else None,
            cells=f"{path}/cells" if succeeded and record.has_cells else None,
        ),
    )


def _field_errors(failure: Failure) -> tuple[wire.FieldError, ...] | None:
    """What of the request is wrong; a worker keeps the sentence alone."""
    if failure.problem != errors.InvalidRequestError.problem:
        return None
    return (wire.FieldError(field="request", message=failure.detail),)


def _progress(record: JobRecord) -> wire.JobProgress:
    total, done = record.fields_total, record.fields_done
    new = done - record.fields_before
    eta_s = None
    if record.status == "running" and total is not None and new > 0 and record.started_at is not None:
        elapsed_s = max(0.0, time.time() - record.started_at)  # clocks can be set back
        eta_s = round(elapsed_s / new * (total - done), 1)
    return wire.JobProgress(
        fields_done=done,
        fields_total=total,
        fraction=1.0 if record.status == "succeeded" else round(done / total, 4) if total else 0.0,
        cells=record.cells,
        eta_s=eta_s,
    )


async def _events(
    look: Callable[[], Awaitable[JobRecord | None]], info: Callable[[JobRecord], wire.JobInfo], last_id: str | None
) -> AsyncIterator[bytes]:
    """Events ``progress`` at every change and ``done`` at the end; ids identify states, to avoid repetition."""
    while (record := await look()) is not None:
        state = f"{record.attempt}-{record.status}-{record.fields_done}"
        if record.ended:
            yield _event("done", state, info(record))
            return
        if state != last_id:
            last_id = state
            yield _event("progress", state, info(record))
        await asyncio.sleep(_LOOK_S)


def _event(name: str, state: str, job: wire.JobInfo) -> bytes:
    return f"event: {name}\nid: {state}\ndata: {job.model_dump_json()}\n\n".encode()


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
