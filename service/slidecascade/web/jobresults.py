"""The routes of a job's results: one file by media type, all files by name, the cells in a box."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slidecascade import errors, wire
from slidecascade.errors import InvalidRequestError, NotAcceptableError
from slidecascade.geometry import Box
from slidecascade.jobs import boxcells
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

_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
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
            200: {
                "description": "A FeatureCollection, or the same cells as columns (docs/jobs.md).",
                "content": {wire.GEOJSON: {"schema": {}}, boxcells.MEDIA_TYPE: _BINARY},
            },
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
        is_packed = boxcells.MEDIA_TYPE in request.headers.get("accept", "")
        list_cells = folders.packed_cells if is_packed else folders.cells
        content = await lookups.run(list_cells, job_id, box, class_name=class_name, limit=limit)
        media_type = boxcells.MEDIA_TYPE if is_packed else wire.GEOJSON
        return Response(content, media_type=media_type, headers={"Vary": "Accept"})


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
        file = written(folders.files(job), _GEOJSON)
        headers["ETag"] = etag_of(job, media_type)
        is_made = known_already(request, headers) or headless(request, headers, media_type)
        return is_made or StreamingResponse(gunzipped(file.path), media_type=media_type, headers=headers)
    if media_type == wire.PNG:
        path = picture(folders.files(job), folder, request.query_params.get("heatmap"))
    else:
        path = written(folders.files(job), _ENDINGS[media_type]).path
    return file_answer(request, path, media_type=media_type, headers=headers)


def picture(files: Sequence[ResultFile], folder: str, name: str | None) -> Path:
    """The picture of a heatmap in `folder`; without a name that of the first one of the pipeline, as of a region.

    Raises:
        UnknownHeatmapError: there is none of that name.
    """
    paths = {file.path.stem: file.path for file in files if fnmatch(file.name, f"{folder}/*.png")}
    summaries = [file.path for file in files if file.name == _ENDINGS[wire.JSON]]
    stated = [item["name"] for path in summaries for item in json.loads(path.read_bytes())["heatmaps"]]
    names = [*(item for item in stated if item in paths), *(item for item in paths if item not in stated)]
    return paths[heatmap.require_name(name, names, pipeline="of this job")]


def native_answer(folders: Folders, job: str) -> Response:
    """``{"summary": ..., "cells": <FeatureCollection>}``: the result for BentoML's clients, streamed, with the
    names that a region's answer has; without the second part when the job did not write GeoJSON."""
    summary = written(folders.files(job), _ENDINGS[wire.JSON])
    large = _find(folders.files(job), _GEOJSON)
    return StreamingResponse(_native(summary, large), media_type=wire.JSON)


def _native(summary: ResultFile, large: ResultFile | None) -> Iterator[bytes]:
    yield b'{"summary":' + summary.path.read_bytes()
    if large is not None:
        yield b',"' + large.name.removesuffix(_GEOJSON).encode() + b'":'
        yield from gunzipped(large.path)
    yield b"}"


def _zip(folders: Folders, job: str) -> Iterator[bytes]:
    """The files of a region's zip; raises before the first chunk when the job did not write the GeoJSON."""
    large = written(folders.files(job), _GEOJSON)
    small = (
        (file.name, file.path.read_bytes())
        for file in folders.files(job)
        if not file.name.endswith((_GEOJSON, ".parquet", ".dcm")) and not fnmatch(file.name, _VALUES)
    )
    # Compression reaches a fifth or a quarter, never an eighth.
    return archive.encode(Files(small, large.path.stem, gunzipped(large.path), 8 * large.size_bytes))


def written(files: Sequence[ResultFile], ending: str) -> ResultFile:
    """The file at the top of the results whose name ends so; raises NotAcceptableError where there is none."""
    if (file := _find(files, ending)) is not None:
        return file
    there = ", ".join(file.name for file in files if "/" not in file.name)
    raise NotAcceptableError(
        f"The job wrote no *{ending} but {there}: request the format of one of these, or submit a job with other "
        "`outputs`, where its kind of pipeline has them."
    )


def _find(files: Sequence[ResultFile], ending: str) -> ResultFile | None:
    return next((file for file in files if "/" not in file.name and file.name.endswith(ending)), None)


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
