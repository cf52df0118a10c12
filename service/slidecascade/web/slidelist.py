"""The list of slides, and which of them can be shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.requests import Request

from slidecascade import errors, wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.slides.deepzoom import DeepZoom
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.middleware.exchange import Exchange
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems

_SMALLEST_PX: Final = 16

ProblemOf = Callable[[errors.SlideCascadeError, str], wire.Problem]


def slide_list_routes(
    analyser: Analyser, deepzoom: DeepZoom, lookups: Pool, pictures: Pool, problem_of: ProblemOf
) -> APIRouter:
    """The list of the slides of `analyser`; `lookups` lists folders, `pictures` opens slides."""
    router = APIRouter(prefix="/v1", tags=["catalogue"])

    # Unset are `info` and `problem` where no slide is named.
    @router.get(
        "/slides",
        summary="List the slides that requests can name",
        response_model_exclude_unset=True,
        responses=problems(errors.InvalidRequestError),
    )
    async def list_slides(
        request: Request,
        named: Annotated[
            str | None,
            Query(alias="only", description="list this slide alone, with `info`, `problem` or both"),
        ] = None,
    ) -> wire.SlideList:
        visible = caller_of(request).visible
        if named is None:
            return await lookups.run(analyser.slides, visible)
        request_id = Exchange.of(request).request_id

        def examined(slide_id: str) -> wire.SlideRef:
            ref = wire.SlideRef(id=slide_id)
            try:
                ref = wire.SlideRef(id=slide_id, info=analyser.slide(slide_id, visible))
                with analyser.open_slide(slide_id, visible) as slide:
                    if deepzoom.glimpse_thumbnail(slide, _SMALLEST_PX) is None:
                        deepzoom.thumbnail(slide, _SMALLEST_PX)
            except errors.SlideCascadeError as error:
                return ref.model_copy(update={"problem": problem_of(error, request_id)})
            return ref

        return wire.SlideList(slides=(await pictures.run(examined, named),), truncated=False)

    return router
