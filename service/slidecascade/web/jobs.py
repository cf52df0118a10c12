"""The routes of jobs: submit, list, follow, fetch."""

from __future__ import annotations

import asyncio
import base64
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slidecascade import errors, wire
from slidecascade.errors import InvalidRequestError, NotAcceptableError
from slidecascade.geometry import Box
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.folders import Folders, ResultFile
from slidecascade.jobs.records import JobRecord
from slidecascade.outputs import archive, heatmap
from slidecascade.outputs.files import Files
from slidecascade.outputs.gzipped import gunzipped
from slidecascade.web.conditional import REVALIDATE, etag_of, file_answer, headless, known_already
from slidecascade.web.joblayers import add_layers
from slidecascade.web.negotiation import choose
from slidecascade.web.notifications import add_notifications
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems
from slidecascade.web.submission import Problem, Submissions

OFFERS: Final = (wire.GEOJSON, wire.JSON, wire.PNG, wire.CSV, wire.PARQUET, wire.ZIP)
EVENTS: Final = "text/event-stream"
MAX_LISTED: Final = 500
MAX_CELLS: Final = 50_000
_LOOK_S: Final = 0.5
"""Polling interval of the events of a job."""

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
_RESULT_ERRORS: Final = (errors.UnknownJobError, errors.JobNotFinishedError, errors.UnreadablePartError)
_BBOX: Final = re.compile(r"-?[0-9]{1,9},-?[0-9]{1,9},[1-9][0-9]{0,8},[1-9][0-9]{0,8}")
_BBOX_FORM: Final = "x,y,width,height in whole level-0 pixels"

_GEOJSON: Final = ".geojson.gz"
_ENDINGS: Final = {wire.JSON: "summary.json", wire.CSV: ".csv", wire.PARQUET: ".parquet"}
"""How the file ends that is the answer of a media type; its name is the kind's."""

_PICTURES: Final = {"map": "heatmaps", "figure": "figures"}
"""The folder of the pictures of a style."""

StatusOf = Callable[[str], int]
"""Returns the HTTP status of a problem by its name."""


def job_routes(
    desk: Desk,
    submissions: Submissions,
    lookups: Pool,
    status_of: StatusOf,
    problem_of: Problem,
    *,
    is_open: Callable[[], bool],
) -> APIRouter:
    """The routes for `desk`; `lookups` runs blocking disk access. Event streams end when the server shuts down."""
    router = APIRouter(prefix="/v1", tags=["jobs"])
    _add_submissions(router, submissions, status_of, problem_of)
    _add_states(router, desk, lookups, status_of)
    _add_events(router, desk, lookups, status_of, is_open)
    _add_results(router, desk, lookups)
    add_layers(router, desk, lookups)
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
        status: wire.JobStatus | None = None,
        label: Annotated[str | None, Query(pattern=wire.TEXT)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        cursor: str | None = None,
    ) -> wire.JobList:
        before = None if cursor is None else _position(cursor)
        records = await lookups.run(desk.list, limit=limit + 1, before=before, status=status, label=label)
        shown = records[:limit]
        more = _cursor(shown[-1]) if len(records) > limit else None
        return wire.JobList(jobs=tuple(map(info, shown)), cursor=more)

    @router.get("/jobs/{job_id}", summary="Show a job", responses=problems(errors.UnknownJobError))
    async def show(job_id: str) -> wire.JobInfo:
        return info(await lookups.run(desk.show, job_id))

    @router.post(
        "/jobs/{job_id}/cancel",
        summary="Stop a job",
        responses=problems(errors.UnknownJobError, errors.JobFinishedError),
    )
    async def cancel(job_id: str) -> wire.JobInfo:
        return info(await lookups.run(desk.cancel, job_id))

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
    async def retry(job_id: str) -> wire.JobInfo:
        return info(await lookups.run(desk.retry, job_id))

    @router.delete(
        "/jobs/{job_id}",
        summary="Delete a finished job and its results",
        status_code=204,
        responses=problems(errors.UnknownJobError, errors.JobNotFinishedError),
    )
    async def delete(job_id: str) -> Response:
        await lookups.run(desk.delete, job_id)
        return Response(status_code=204)


def _add_events(
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
        await lookups.run(desk.show, job_id)

        async def look() -> JobRecord | None:
            return await lookups.run(desk.show, job_id) if is_open() else None

        events = _events(look, lambda record: job_info(record, status_of), request.headers.get("last-event-id"))
        return StreamingResponse(events, media_type=EVENTS)


def _add_results(router: APIRouter, desk: Desk, lookups: Pool) -> None:
    @router.get(
        "/jobs/{job_id}/result",
        summary="Fetch a result in the format of Accept",
        response_class=Response,
        responses={
            200: {"description": "The result.", "content": {offer: {"schema": {}} for offer in OFFERS}},
            206: {"description": "The part of it that Range asks for.", "content": {"*/*": {"schema": {}}}},
            304: {"description": "The client has it"},
            416: {"description": "Range is outside the result"},
            **problems(*_RESULT_ERRORS, NotAcceptableError, errors.UnknownHeatmapError),
        },
    )
    async def result(job_id: str, request: Request) -> Response:
        media_type = choose(",".join(request.headers.getlist("accept")), OFFERS)
        folders = await lookups.run(desk.results, job_id)
        query = request.query_params
        folder = _PICTURES.get(query.get("style", "map"))
        if folder is None:
            raise _wrong("style", f"must be one of {', '.join(_PICTURES)}")
        return await lookups.run(_result, request, folders, job_id, media_type, folder)

    @router.get("/jobs/{job_id}/files", summary="List the files of a job", responses=problems(*_RESULT_ERRORS))
    async def list_files(job_id: str) -> wire.JobFileList:
        folders = await lookups.run(desk.results, job_id)
        files = await lookups.run(folders.files, job_id)
        return wire.JobFileList(
            files=tuple(
                wire.JobFile(name=file.name, bytes=file.size_bytes, media_type=file.media_type) for file in files
            )
        )

    @router.get(
        "/jobs/{job_id}/files/{name:path}",
        summary="Fetch a file of a job",
        response_class=Response,
        responses={
            200: {"description": "The file.", "content": {"*/*": {"schema": {}}}},
            206: {"description": "The part of the file that Range asks for.", "content": {"*/*": {"schema": {}}}},
            304: {"description": "The client has it"},
            416: {"description": "Range is outside the file"},
            **problems(*_RESULT_ERRORS),
        },
    )
    async def fetch(job_id: str, name: str, request: Request) -> Response:
        folders = await lookups.run(desk.results, job_id)
        return await lookups.run(_file, request, folders, job_id, name)

    @router.get(
        "/jobs/{job_id}/cells",
        summary="List the cells in a box",
        response_class=Response,
        responses={
            200: {"description": "A FeatureCollection.", "content": {wire.GEOJSON: {"schema": {}}}},
            **problems(*_RESULT_ERRORS, errors.ResultTooLargeError),
        },
    )
    async def cells(
        job_id: str,
        bbox: Annotated[str, Query(description=_BBOX_FORM, json_schema_extra={"pattern": f"^{_BBOX.pattern}$"})],
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_CELLS)] = MAX_CELLS,
    ) -> Response:
        box, class_name = _box(bbox), request.query_params.get("class")
        folders = await lookups.run(desk.results, job_id)
        text = await lookups.run(folders.cells, job_id, box, class_name=class_name, limit=limit)
        return Response(text, media_type=wire.GEOJSON)


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
            cells=f"{path}/cells" if succeeded else None,
        ),
    )


def _progress(record: JobRecord) -> wire.JobProgress:
    total, done = record.fields_total, record.fields_done
    new = done - record.fields_before
    eta_s = None
    if record.status == "running" and total is not None and new > 0 and record.started_at is not None:
        eta_s = round((time.time() - record.started_at) / new * (total - done), 1)
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


def _result(request: Request, folders: Folders, job: str, media_type: str, folder: str) -> Response:
    """A result as a response; raises an error if it is not among the job's outputs."""
    headers = {"Vary": "Accept", "Cache-Control": REVALIDATE}
    if media_type == wire.ZIP:
        headers["Content-Disposition"] = 'attachment; filename="slidecascade.zip"'
        headers["ETag"] = etag_of(job, media_type)
        is_made = known_already(request, headers) or headless(request, headers, media_type)
        return is_made or StreamingResponse(_zip(folders, job), media_type=media_type, headers=headers)
    if media_type == wire.GEOJSON:
        file = _written(folders, job, _GEOJSON)
        headers["ETag"] = etag_of(job, media_type)
        is_made = known_already(request, headers) or headless(request, headers, media_type)
        return is_made or StreamingResponse(gunzipped(file.path), media_type=media_type, headers=headers)
    if media_type == wire.PNG:
        maps = [file for file in folders.files(job) if file.name.startswith(f"{folder}/")]
        names = [file.path.stem for file in maps]
        name = heatmap.require_name(request.query_params.get("heatmap"), names, pipeline="of this job")
        path = maps[names.index(name)].path
    else:
        path = _written(folders, job, _ENDINGS[media_type]).path
    return file_answer(request, path, media_type=media_type, headers=headers)


def _zip(folders: Folders, job: str) -> Iterator[bytes]:
    """The files of a region's zip; raises before the first chunk when the job did not write the GeoJSON."""
    large = _written(folders, job, _GEOJSON)
    small = (
        (file.name, file.path.read_bytes())
        for file in folders.files(job)
        if not file.name.endswith((_GEOJSON, ".parquet"))
    )
    # Compression reaches a fifth or a quarter, never an eighth.
    return archive.encode(Files(small, large.path.stem, gunzipped(large.path), 8 * large.size_bytes))


def _written(folders: Folders, job: str, ending: str) -> ResultFile:
    """The file at the top of the results whose name ends so."""
    for file in folders.files(job):
        if "/" not in file.name and file.name.endswith(ending):
            return file
    raise NotAcceptableError(
        f"The job's outputs do not include *{ending}: request another format, or submit it with other `outputs`."
    )


def _file(request: Request, folders: Folders, job: str, name: str) -> Response:
    """A file with ETag and support for Range."""
    file = folders.file(job, name)
    if file is None:
        raise HTTPException(404)
    return file_answer(
        request,
        file.path,
        media_type=file.media_type,
        headers={"Cache-Control": REVALIDATE},
        filename=file.path.name,
    )


def _box(text: str) -> Box:
    if not _BBOX.fullmatch(text):
        raise _wrong("bbox", f"give {_BBOX_FORM}, width and height at least 1")
    return Box(*map(int, text.split(",")))


def _cursor(record: JobRecord) -> str:
    return base64.urlsafe_b64encode(f"{record.created_at!r} {record.id}".encode()).decode()


def _position(cursor: str) -> tuple[float, str]:
    try:
        created_at, job = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        if not math.isfinite(seconds := float(created_at)):
            raise ValueError(created_at)
        return seconds, job
    except ValueError:
        raise _wrong("cursor", "send the cursor of the previous list") from None


def _wrong(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field!r} is invalid: {message}.", ((field, message),))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
