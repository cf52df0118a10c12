"""The routes of jobs: handed in, listed, followed, fetched."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from slidecascade import wire
from slidecascade.errors import InvalidRequestError, NotAcceptableError
from slidecascade.geometry import Box
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.folders import Folders, ResultFile
from slidecascade.jobs.records import JobRecord
from slidecascade.outputs import archive, heatmap
from slidecascade.outputs.files import Files
from slidecascade.outputs.gzipped import gunzipped
from slidecascade.web.form import MAX_JSON_BYTES
from slidecascade.web.intake import parse, read_bytes
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.negotiation import choose
from slidecascade.web.pool import Pool

OFFERS: Final = (wire.GEOJSON, wire.JSON, wire.PNG, wire.PARQUET, wire.ZIP)
MAX_LISTED: Final = 500
MAX_CELLS: Final = 50_000
_BODY_S: Final = 30.0
_LOOK_S: Final = 0.5
"""How often the events of a job are looked for."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {wire.JSON: {"schema": {"$ref": "#/components/schemas/JobRequest"}}},
    },
    "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}}],
}

StatusOf = Callable[[str], int]
"""The HTTP status of a problem by its name."""


def job_routes(desk: Desk, lookups: Pool, status_of: StatusOf, *, is_open: Callable[[], bool]) -> APIRouter:
    """The routes over `desk`; `lookups` runs what may wait for a disk. Events end when the server is not open."""
    router = APIRouter(prefix="/v1", tags=["jobs"], responses={404: {"model": wire.Problem}})
    _add_states(router, desk, lookups, status_of)
    _add_events(router, desk, lookups, status_of, is_open)
    _add_results(router, desk, lookups)
    return router


def _add_states(router: APIRouter, desk: Desk, lookups: Pool, status_of: StatusOf) -> None:
    def info(record: JobRecord) -> wire.JobInfo:
        return job_info(record, status_of)

    @router.post(
        "/jobs",
        summary="Analyse a slide as a job",
        status_code=202,
        responses={200: {"model": wire.JobInfo}, 202: {"model": wire.JobInfo}},
        response_class=Response,
        openapi_extra=_REQUEST_BODY,
    )
    async def submit(request: Request) -> Response:
        document = await read_bytes(request, max_bytes=MAX_JSON_BYTES, max_s=_BODY_S)
        order = parse(wire.JobRequest, document)
        key = _idempotency_key(request)
        record, is_new = await lookups.run(desk.submit, order, request_id=Exchange.of(request).request_id, key=key)
        told = info(record)
        return Response(
            told.model_dump_json(),
            status_code=202 if is_new else 200,
            headers={"Location": told.links.self},
            media_type=wire.JSON,
        )

    @router.get("/jobs", summary="List jobs, the newest first")
    async def list_jobs(
        status: wire.JobStatus | None = None, label: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> wire.JobList:
        if not 1 <= limit <= MAX_LISTED:
            raise _wrong("limit", f"give a number from 1 to {MAX_LISTED}")
        before = None if cursor is None else _position(cursor)
        records = await lookups.run(desk.list, limit=limit + 1, before=before, status=status, label=label)
        shown = records[:limit]
        more = _cursor(shown[-1]) if len(records) > limit else None
        return wire.JobList(jobs=tuple(map(info, shown)), cursor=more)

    @router.get("/jobs/{job_id}", summary="Show a job")
    async def show(job_id: str) -> wire.JobInfo:
        return info(await lookups.run(desk.show, job_id))

    @router.post("/jobs/{job_id}/cancel", summary="Stop a job")
    async def cancel(job_id: str) -> wire.JobInfo:
        return info(await lookups.run(desk.cancel, job_id))

    @router.post("/jobs/{job_id}/retry", summary="Go on with a job that failed or was cancelled", status_code=202)
    async def retry(job_id: str) -> wire.JobInfo:
        return info(await lookups.run(desk.retry, job_id))

    @router.delete("/jobs/{job_id}", summary="Remove a job that has ended, and its results", status_code=204)
    async def delete(job_id: str) -> Response:
        await lookups.run(desk.delete, job_id)
        return Response(status_code=204)


def _add_events(
    router: APIRouter, desk: Desk, lookups: Pool, status_of: StatusOf, is_open: Callable[[], bool]
) -> None:
    @router.get("/jobs/{job_id}/events", summary="Follow a job", response_class=Response)
    async def follow(job_id: str, request: Request) -> Response:
        await lookups.run(desk.show, job_id)

        async def look() -> JobRecord | None:
            return await lookups.run(desk.show, job_id) if is_open() else None

        events = _events(look, lambda record: job_info(record, status_of), request.headers.get("last-event-id"))
        return StreamingResponse(events, media_type="text/event-stream")


def _add_results(router: APIRouter, desk: Desk, lookups: Pool) -> None:
    @router.get("/jobs/{job_id}/result", summary="Fetch a result as Accept asks", response_class=Response)
    async def result(job_id: str, request: Request) -> Response:
        media_type = choose(",".join(request.headers.getlist("accept")), OFFERS)
        folders = await lookups.run(desk.results, job_id)
        return await lookups.run(_result, folders, job_id, media_type, request.query_params.get("heatmap"))

    @router.get("/jobs/{job_id}/files", summary="List the files of a job")
    async def list_files(job_id: str) -> wire.JobFileList:
        folders = await lookups.run(desk.results, job_id)
        files = await lookups.run(folders.files, job_id)
        return wire.JobFileList(
            files=tuple(
                wire.JobFile(name=file.name, bytes=file.size_bytes, media_type=file.media_type) for file in files
            )
        )

    @router.get("/jobs/{job_id}/files/{name:path}", summary="Fetch a file of a job", response_class=Response)
    async def fetch(job_id: str, name: str) -> Response:
        folders = await lookups.run(desk.results, job_id)
        return _file_response(await lookups.run(_file, folders, job_id, name))

    @router.get("/jobs/{job_id}/cells", summary="The cells of a box", response_class=Response)
    async def cells(job_id: str, bbox: str, request: Request, limit: int = MAX_CELLS) -> Response:
        if not 1 <= limit <= MAX_CELLS:
            raise _wrong("limit", f"give a number from 1 to {MAX_CELLS}")
        box, class_name = _box(bbox), request.query_params.get("class")
        folders = await lookups.run(desk.results, job_id)
        text = await lookups.run(folders.cells, job_id, box, class_name=class_name, limit=limit)
        return Response(text, media_type=wire.GEOJSON)


def job_info(record: JobRecord, status_of: StatusOf) -> wire.JobInfo:
    """A job as the API reports it."""
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
    """``progress`` whenever there is any, and ``done`` at the end; ids name states, so that none is sent twice."""
    while (record := await look()) is not None:
        state = f"{record.attempt}-{record.status}-{record.fields_done}"
        if record.ended:
            yield _event("done", state, info(record))
            return
        if state != last_id:
            last_id = state
            yield _event("progress", state, info(record))
        await asyncio.sleep(_LOOK_S)


def _event(name: str, state: str, told: wire.JobInfo) -> bytes:
    return f"event: {name}\nid: {state}\ndata: {told.model_dump_json()}\n\n".encode()


def _result(folders: Folders, job: str, media_type: str, heatmap_name: str | None) -> Response:
    """A result as an answer; raises when the job was not asked to write it."""
    headers = {"Vary": "Accept"}
    if media_type == wire.ZIP:
        headers["Content-Disposition"] = 'attachment; filename="slidecascade.zip"'
        return StreamingResponse(_zip(folders, job), media_type=media_type, headers=headers)
    if media_type == wire.GEOJSON:
        file = _written(folders, job, "cells.geojson.gz")
        return StreamingResponse(gunzipped(file.path), media_type=media_type, headers=headers)
    if media_type == wire.PNG:
        maps = [file for file in folders.files(job) if file.name.startswith("heatmaps/")]
        names = [file.path.stem for file in maps]
        name = heatmap.require_name(heatmap_name, names, pipeline="of this job")
        return FileResponse(maps[names.index(name)].path, media_type=media_type, headers=headers)
    name = "summary.json" if media_type == wire.JSON else "cells.parquet"
    return FileResponse(_written(folders, job, name).path, media_type=media_type, headers=headers)


def _zip(folders: Folders, job: str) -> Iterator[bytes]:
    """The files that a region's zip has; raises before the first piece when the job did not write the cells."""
    large = _written(folders, job, "cells.geojson.gz")
    small = (
        (file.name, file.path.read_bytes())
        for file in folders.files(job)
        if file.name not in ("cells.geojson.gz", "cells.parquet")
    )
    # Packed to a fifth or a quarter, never to an eighth.
    return archive.encode(Files(small, "cells.geojson", gunzipped(large.path), 8 * large.size_bytes))


def _written(folders: Folders, job: str, name: str) -> ResultFile:
    file = folders.file(job, name)
    if file is None:
        raise NotAcceptableError(
            f"The job was not asked to write {name}: ask for another answer, or submit it with other `outputs`."
        )
    return file


def _file(folders: Folders, job: str, name: str) -> ResultFile:
    file = folders.file(job, name)
    if file is None:
        raise HTTPException(404)
    return file


def _file_response(file: ResultFile) -> FileResponse:
    """With ETag, and as much of it as Range asks for."""
    return FileResponse(file.path, media_type=file.media_type, filename=file.path.name)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise _wrong("Idempotency-Key", "give 1 to 255 visible ASCII characters")
    return key


def _box(text: str) -> Box:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise _wrong("bbox", "give x,y,width,height in whole level-0 pixels") from None
    if width < 1 or height < 1:
        raise _wrong("bbox", "width and height must be at least 1")
    return Box(x, y, width, height)


def _cursor(record: JobRecord) -> str:
    return base64.urlsafe_b64encode(f"{record.created_at!r} {record.id}".encode()).decode()


def _position(cursor: str) -> tuple[float, str]:
    try:
        created_at, job = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        return float(created_at), job
    except ValueError:
        raise _wrong("cursor", "send the one that the list before ended with") from None


def _wrong(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field!r} is wrong: {message}.", ((field, message),))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
