"""What a viewer lays over a slide: the cells of a job's fields, its classes and its heatmaps."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import errors, wire
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.fieldcells import MEDIA_TYPE
from slidecascade.outputs import png
from slidecascade.outputs.colormap import COLORMAPS, Colormap
from slidecascade.slides.deepzoom import Address
from slidecascade.web.conditional import IMMUTABLE, REVALIDATE, etag_of, headless, known_already
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems

_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_TILE_ERRORS: Final = (
    errors.UnknownJobError,
    errors.UnknownHeatmapError,
    errors.JobNotFinishedError,
    errors.UnreadablePartError,
    errors.InvalidRequestError,
)
_CROP_ERRORS: Final = (
    errors.UnknownJobError,
    errors.JobNotFinishedError,
    errors.UnknownModelError,
    errors.UnknownSlideError,
    errors.UnreadableSlideError,
    errors.UnreadablePartError,
    errors.InvalidRequestError,
)
MAX_L0: Final = 2**31
_COLORMAP: Final[dict[str, Any]] = {
    "parameters": [{"name": "colormap", "in": "query", "schema": {"type": "string", "enum": list(COLORMAPS)}}]
}


def add_layers(router: APIRouter, desk: Desk, lookups: Pool, pictures: Pool) -> None:
    """Add the routes to `router`; `pictures` opens slides."""

    @router.get(
        "/jobs/{job_id}/fields",
        summary="List the fields that are done, also while the job runs",
        responses=problems(errors.UnknownJobError),
    )
    async def fields(job_id: str, request: Request) -> wire.JobFieldList:
        return wire.JobFieldList(fields=await lookups.run(desk.fields, job_id, caller_of(request)))

    @router.get(
        "/jobs/{job_id}/fields/{index}",
        summary="The cells of a field as a compact binary, also while the job runs",
        response_class=Response,
        responses={
            200: {"description": "The field.", "content": {MEDIA_TYPE: _BINARY}},
            304: {"description": "The client has it"},
            **problems(errors.UnknownJobError, errors.InvalidRequestError),
        },
    )
    async def field(job_id: str, index: int, request: Request) -> Response:
        record, data = await lookups.run(desk.field, job_id, index, caller_of(request))
        if data is None:
            raise HTTPException(404)
        is_final = record.status == "succeeded"
        headers = {
            "ETag": etag_of(job_id, record.attempt, "field", index, is_final),
            "Cache-Control": IMMUTABLE if is_final else REVALIDATE,
        }
        if (known := known_already(request, headers)) is not None:
            return known
        return Response(data, media_type=MEDIA_TYPE, headers=headers)

    @router.get(
        "/jobs/{job_id}/crops/{model}.png",
        summary="The cell at a point as a network of the pipeline was given it",
        response_class=Response,
        responses={
            200: {"description": "The crop.", "content": {wire.PNG: _BINARY}},
            304: {"description": "The client has it"},
            **problems(*_CROP_ERRORS),
        },
    )
    async def crop(
        job_id: str,
        model: str,
        request: Request,
        x: Annotated[float, Query(ge=0, le=MAX_L0, description="level-0 pixels, inside the cell's bounding box")],
        y: Annotated[float, Query(ge=0, le=MAX_L0)],
    ) -> Response:
        await lookups.run(desk.results, job_id, caller_of(request))
        headers = {"ETag": etag_of(job_id, "crop", model, x, y), "Cache-Control": IMMUTABLE}
        known = known_already(request, headers) or headless(request, headers, wire.PNG)
        if known is not None:
            return known
        pixels = await pictures.run(desk.crop, job_id, model, (x, y), caller_of(request))
        return Response(png.encode(pixels), media_type=wire.PNG, headers=headers)

    @router.get(
        "/jobs/{job_id}/layers/{name}/{level}/{column}_{row}.png",
        summary="A tile of the classes (`classes`) or of a heatmap, by its level of Deep Zoom",
        response_class=Response,
        responses={
            200: {"description": "The tile.", "content": {wire.PNG: _BINARY}},
            304: {"description": "The client has it"},
            **problems(*_TILE_ERRORS),
        },
        openapi_extra=_COLORMAP,
    )
    async def tile(job_id: str, name: str, level: int, column: int, row: int, request: Request) -> Response:
        colormap = Colormap.parse(request.query_params.get("colormap", Colormap.VIRIDIS))
        folders = await lookups.run(desk.results, job_id, caller_of(request))
        headers = {
            "ETag": etag_of(job_id, name, level, column, row, colormap),
            "Cache-Control": IMMUTABLE,
        }
        if (known := known_already(request, headers)) is not None:
            return known
        layers = await lookups.run(folders.layers, job_id)
        data = await lookups.run(layers.tile, name, Address(level, column, row), colormap)
        if data is None:
            raise HTTPException(404)
        return headless(request, headers, wire.PNG) or Response(data, media_type=wire.PNG, headers=headers)
