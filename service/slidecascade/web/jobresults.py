"""The routes of a job's results: one file by media type, all files by name, the cells in a box."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slidecascade import errors, wire
from slidecascade.errors import InvalidRequestError, NotAcceptableError
from slidecascade.geometry import Box
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.folders import Folders, ResultFile
from slidecascade.outputs import archive, heatmap
from slidecascade.outputs.files import Files
from slidecascade.outputs.gzipped import gunzipped
from slidecascade.web.conditional import REVALIDATE, etag_of, file_answer, headless, known_already
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.negotiation import choose
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems

OFFERS: Final = (wire.GEOJSON, wire.JSON, wire.PNG, wire.CSV, wire.PARQUET, wire.ZIP)
MAX_CELLS: Final = 50_000

_RESULT_ERRORS: Final = (errors.UnknownJobError, errors.JobNotFinishedError, errors.UnreadablePartError)
_BBOX: Final = re.compile(r"-?[0-9]{1,9},-?[0-9]{1,9},[1-9][0-9]{0,8},[1-9][0-9]{0,8}")
_BBOX_FORM: Final = "x,y,width,height in whole level-0 pixels"

_GEOJSON: Final = ".geojson.gz"
_ENDINGS: Final = {wire.JSON: "summary.json", wire.CSV: ".csv", wire.PARQUET: ".parquet"}
"""How the file ends that is the answer of a media type; its name is the kind's."""

_VALUES: Final = "heatmaps/*.tiff"
"""The values of heatmaps, which a region's zip does not have."""

_PICTURES: Final = {"map": "heatmaps", "figure": "figures"}
"""The folder of the pictures of a style."""


def add_results(router: APIRouter, desk: Desk, lookups: Pool) -> None:
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
        folders = await lookups.run(desk.results, job_id, caller_of(request))
        query = request.query_params
        folder = _PICTURES.get(query.get("style", "map"))
        if folder is None:
            raise _invalid("style", f"must be one of {', '.join(_PICTURES)}")
        return await lookups.run(_result, request, folders, job_id, media_type, folder)

    @router.get("/jobs/{job_id}/files", summary="List the files of a job", responses=problems(*_RESULT_ERRORS))
    async def list_files(job_id: str, request: Request) -> wire.JobFileList:
        folders = await lookups.run(desk.results, job_id, caller_of(request))
        files = await lookups.run(folders.files, job_id)
        return wire.JobFileList(files=tuple(map(_described, files)))

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
        folders = await lookups.run(desk.results, job_id, caller_of(request))
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
        folders = await lookups.run(desk.results, job_id, caller_of(request))
        text = await lookups.run(folders.cells, job_id, box, class_name=class_name, limit=limit)
        return Response(text, media_type=wire.GEOJSON)


def _described(file: ResultFile) -> wire.JobFile:
    known = file.digests
    return wire.JobFile(
        name=file.name,
        bytes=file.size_bytes,
        media_type=file.media_type,
        sha256=known.sha256 if known else None,
        sha1=known.sha1 if known else None,
    )


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


def native_answer(folders: Folders, job: str) -> Response:
    """``{"summary": ..., "cells": <FeatureCollection>}``: the result for BentoML's clients, streamed, with the
    names that a region's answer has; without the second part when the job did not write GeoJSON."""
    summary = _written(folders, job, _ENDINGS[wire.JSON])
    large = _find(folders, job, _GEOJSON)
    return StreamingResponse(_native(summary, large), media_type=wire.JSON)


def _native(summary: ResultFile, large: ResultFile | None) -> Iterator[bytes]:
    yield b'{"summary":' + summary.path.read_bytes()
    if large is not None:
        yield b',"' + large.name.removesuffix(_GEOJSON).encode() + b'":'
        yield from gunzipped(large.path)
    yield b"}"


def _zip(folders: Folders, job: str) -> Iterator[bytes]:
    """The files of a region's zip; raises before the first chunk when the job did not write the GeoJSON."""
    large = _written(folders, job, _GEOJSON)
    small = (
        (file.name, file.path.read_bytes())
        for file in folders.files(job)
        if not file.name.endswith((_GEOJSON, ".parquet", ".dcm")) and not fnmatch(file.name, _VALUES)
    )
    # Compression reaches a fifth or a quarter, never an eighth.
    return archive.encode(Files(small, large.path.stem, gunzipped(large.path), 8 * large.size_bytes))


def _written(folders: Folders, job: str, ending: str) -> ResultFile:
    """The file at the top of the results whose name ends so; raises NotAcceptableError where there is none."""
    if (file := _find(folders, job, ending)) is not None:
        return file
    raise NotAcceptableError(
        f"The job's outputs do not include *{ending}: request another format, or submit it with other `outputs`."
    )


def _find(folders: Folders, job: str, ending: str) -> ResultFile | None:
    return next((file for file in folders.files(job) if "/" not in file.name and file.name.endswith(ending)), None)


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
        raise _invalid("bbox", f"give {_BBOX_FORM}, width and height at least 1")
    return Box(*map(int, text.split(",")))


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field!r} is invalid: {message}.", ((field, message),))
