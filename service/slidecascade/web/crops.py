"""The route that shows a cell as a network of its pipeline was given it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import errors, wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.cropview import crop_of
from slidecascade.cancellation import Control
from slidecascade.outputs import png
from slidecascade.web.conditional import REVALIDATE, etag_of, headless, known_already
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems
from slidecascade.wire.fields import MAX_COORDINATE, StainMethod

_ERRORS: Final = (
    errors.UnknownSlideError,
    errors.UnreadableSlideError,
    errors.UnknownPipelineError,
    errors.UnknownModelError,
    errors.RegionOutsideSlideError,
    errors.MissingResolutionError,
    errors.UnusableStainError,
    errors.InvalidRequestError,
)
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The crop.",
        "content": {wire.PNG: {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The client has it"},
    **problems(*_ERRORS),
}


def crop_routes(analyser: Analyser, pictures: Pool) -> APIRouter:
    """The route for the slides and pipelines of `analyser`; `pictures` reads and encodes."""
    router = APIRouter(prefix="/v1", tags=["catalogue"])

    @router.get(
        "/slides/{slide_id:path}/crops/{model}.png",
        summary="The pixels around a cell as a network of a pipeline is given them",
        response_class=Response,
        responses=_ANSWERS,
    )
    async def crop(
        slide_id: str,
        model: str,
        request: Request,
        pipeline: Annotated[str, Query(min_length=1, max_length=wire.MAX_NAME)],
        x: Annotated[float, Query(ge=0, le=MAX_COORDINATE, description="centroid in level-0 pixels")],
        y: Annotated[float, Query(ge=0, le=MAX_COORDINATE, description="centroid in level-0 pixels")],
        mpp: Annotated[float | None, Query(ge=0.01, le=100, description="where the slide states none")] = None,
        stain: Annotated[StainMethod | None, Query(description="default: the pipeline's")] = None,
    ) -> Response:
        fields = {"pipeline": pipeline, "slide": slide_id, "region": {"x": int(x), "y": int(y), **_PIXEL}}
        optional = {"mpp": mpp, "stain": None if stain is None else {"method": stain}}
        asked = wire.parse_request(fields | {name: value for name, value in optional.items() if value is not None})

        def work() -> Response:
            task = analyser.prepare(asked, None, Control(), visible=caller_of(request).visible)
            parts = (task.facts.content_id, "crop", pipeline, model, x, y, task.mpp, stain)
            headers = {"ETag": etag_of(*parts), "Cache-Control": REVALIDATE}
            known = known_already(request, headers) or headless(request, headers, wire.PNG)
            return known or Response(
                png.encode(crop_of(task, model, (x, y))), media_type=wire.PNG, headers=headers
            )

        return await pictures.run(work)

    return router


_PIXEL: Final = {"width": 1, "height": 1}
