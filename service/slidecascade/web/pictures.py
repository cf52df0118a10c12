"""The routes that show a slide: a Deep Zoom pyramid and thumbnails, kept by clients by the slide's content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import errors
from slidecascade.analysis.analyser import Analyser
from slidecascade.geometry import Size
from slidecascade.slides.deepzoom import MAX_THUMBNAIL_PX, QUALITY, TILE_PX, Address, DeepZoom, blank
from slidecascade.slides.source import Pictured, Source
from slidecascade.slides.stackimage import StackImage
from slidecascade.slides.tinted import FORM, PATTERN, Tinted, parse_looks
from slidecascade.web.coarselevels import CoarseLevels, Look
from slidecascade.web.conditional import IMMUTABLE, REVALIDATE, etag_of, headless, known_already
from slidecascade.web.middleware.auth import caller_of
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems

JPEG: Final = "image/jpeg"
XML: Final = "application/xml"
MIN_THUMBNAIL_PX: Final = 16
_SLIDE_ERRORS: Final = (errors.UnknownSlideError, errors.UnreadableSlideError)
_QUERY_ERRORS: Final = (*_SLIDE_ERRORS, errors.InvalidRequestError)
_KNOWN: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "The client has it"}}

_VERSION: Final = "content_id"
"""The query parameter by which a client states the content it asks for: such an address is never another one."""


_STANDIN: Final = "standin"
"""The query parameter by which a client takes a coarse stand-in rather than wait for all pixels to be read."""

_STANDIN_HEADER: Final = "SlideCascade-Stand-In"
_STANDIN_HEADERS: Final = {_STANDIN_HEADER: "1", "Cache-Control": "no-store"}

_PROBLEM_HEADER: Final = "SlideCascade-Problem"
"""On a blank tile: why the slide cannot be read there, percent-encoded."""

_REPLACED_HEADER: Final = "SlideCascade-Replaced"
"""On a picture: the slide has another content than the one the client states."""

_CHANNELS: Final = "channels"
"""The query parameter that chooses channels, their colours and contrasts."""

_LOOK_PARAMETERS: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": _CHANNELS,
            "in": "query",
            "schema": {"type": "string", "pattern": f"^{PATTERN}(,{PATTERN})*$"},
            "description": f"of a stack of channels: those to show, as {FORM}; default: all",
        },
        {
            "name": _STANDIN,
            "in": "query",
            "schema": {"type": "string", "enum": ["1"]},
            "description": "take a coarse stand-in while the coarse levels of a slide that stores none are made; "
            f"the answer then has the header {_STANDIN_HEADER}: ask again; a tile that cannot be read is blank, "
            f"and {_PROBLEM_HEADER} says why, percent-encoded. "
            f"Where the slide has another content than {_VERSION}, {_REPLACED_HEADER} is 1, and a tile that it no "
            "longer has is one grey pixel",
        },
    ]
}


@dataclass(frozen=True, slots=True)
class _Part:
    """What is asked of a slide: its name among the slide's parts, and what makes it (None: there is no such).

    `glimpse` makes a stand-in for what takes long to make; None: it does not. `blank` makes one for what cannot be
    read; None: that is an error.
    """

    name: tuple[object, ...]
    make: Callable[[Pictured], bytes | None]
    glimpse: Callable[[Pictured], bytes | None] = lambda _: None
    blank: Callable[[Pictured], bytes | None] = lambda _: None


def _shown(slide: Source, channels: str | None) -> Pictured:
    """The slide in the colours that a request asks for; raises InvalidRequestError where it has no channels."""
    if channels is None:
        return slide
    looks = parse_looks(channels)
    if not isinstance(slide, StackImage):
        message = "the slide stores colours, no channels that could be shown in others"
        raise errors.InvalidRequestError(f"'channels' is invalid: {message}.", ((_CHANNELS, message),))
    return Tinted(slide, looks)


def _takes_standin(request: Request) -> bool:
    """Whether `request` takes stand-ins; raises InvalidRequestError for another value than 1."""
    given = request.query_params.getlist(_STANDIN)
    if given and given != ["1"]:
        message = "must be 1, or left out"
        raise errors.InvalidRequestError(f"{_STANDIN!r} is invalid: {message}.", ((_STANDIN, message),))
    return bool(given)


def _answers(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"} if media_type == JPEG else {}}}
    return {200: {"description": description, "content": content}, **_KNOWN}


def picture_routes(analyser: Analyser, deepzoom: DeepZoom, pictures: Pool) -> APIRouter:
    """The routes for the slides of `analyser`; `pictures` reads and encodes with `deepzoom`."""
    router = APIRouter(prefix="/v1", tags=["catalogue"])

    def make_levels(look: Look) -> None:
        with analyser.open_slide(look.slide_id, look.caller.visible) as slide:
            deepzoom.make_levels(_shown(slide, look.channels))

    levels = CoarseLevels(make_levels, pictures)

    async def answer(request: Request, slide_id: str, media_type: str, part: _Part) -> Response:
        takes_standin = _takes_standin(request)
        caller, channels = caller_of(request), request.query_params.get(_CHANNELS)

        def work() -> Response:
            with analyser.open_slide(slide_id, caller.visible) as source:
                slide = _shown(source, channels)
                is_replaced = request.query_params.get(_VERSION, source.content_id) != source.content_id
                try:
                    response = made(source, slide, takes_standin=takes_standin)
                    if is_replaced:
                        response.headers[_REPLACED_HEADER] = "1"
                    return response
                except HTTPException:
                    if not (takes_standin and is_replaced):
                        raise
                    headers = {_REPLACED_HEADER: "1", "Cache-Control": "no-store"}
                    return Response(blank(Size(1, 1), Address(0, 0, 0)), media_type=media_type, headers=headers)
                except errors.UnreadableSlideError as error:
                    data = part.blank(slide) if takes_standin else None
                    if data is None:
                        raise
                    headers = {_PROBLEM_HEADER: quote(error.detail), "Cache-Control": "no-store"}
                    return Response(data, media_type=media_type, headers=headers)

        def made(source: Source, slide: Pictured, *, takes_standin: bool) -> Response:
            if takes_standin and (data := part.glimpse(slide)) is not None:
                return Response(data, media_type=media_type, headers=_STANDIN_HEADERS)
            is_exact = request.query_params.get(_VERSION) == source.content_id
            headers = {
                "ETag": etag_of(slide.content_id, QUALITY, *part.name),
                "Cache-Control": IMMUTABLE if is_exact else REVALIDATE,
            }
            known = known_already(request, headers) or headless(request, headers, media_type)
            if known is not None:
                return known
            data = part.make(slide)
            if data is None:
                raise HTTPException(404)
            return Response(data, media_type=media_type, headers=headers)

        response = await pictures.run(work)
        if _STANDIN_HEADER in response.headers:
            levels.begin(Look(caller, slide_id, channels))
        return response

    @router.get(
        "/slides/{slide_id:path}/dzi",
        summary="Describe the Deep Zoom pyramid of a slide",
        response_class=Response,
        responses={**_answers("The description.", XML), **problems(*_SLIDE_ERRORS)},
    )
    async def describe(slide_id: str, request: Request) -> Response:
        part = _Part(("dzi",), lambda slide: _description(slide.size_l0))
        return await answer(request, slide_id, XML, part)

    @router.get(
        "/slides/{slide_id:path}/dzi_files/{level}/{column}_{row}.jpeg",
        summary="A tile of the Deep Zoom pyramid of a slide",
        response_class=Response,
        responses={**_answers("The tile.", JPEG), **problems(*_QUERY_ERRORS)},
        openapi_extra=_LOOK_PARAMETERS,
    )
    async def tile(slide_id: str, level: int, column: int, row: int, request: Request) -> Response:
        address = Address(level, column, row)
        part = _Part(
            ("tile", level, column, row),
            lambda slide: deepzoom.tile(slide, address),
            lambda slide: deepzoom.glimpse(slide, address),
            lambda slide: blank(slide.size_l0, address),
        )
        return await answer(request, slide_id, JPEG, part)

    @router.get(
        "/slides/{slide_id:path}/thumbnail",
        summary="A small picture of a slide",
        response_class=Response,
        responses={**_answers("The picture.", JPEG), **problems(*_QUERY_ERRORS)},
        openapi_extra=_LOOK_PARAMETERS,
    )
    async def thumbnail(
        slide_id: str,
        request: Request,
        max_px: Annotated[int, Query(ge=MIN_THUMBNAIL_PX, le=MAX_THUMBNAIL_PX)] = 256,
    ) -> Response:
        part = _Part(
            ("thumbnail", max_px),
            lambda slide: deepzoom.thumbnail(slide, max_px),
            lambda slide: deepzoom.glimpse_thumbnail(slide, max_px),
        )
        return await answer(request, slide_id, JPEG, part)

    return router


def _description(size_l0: Size) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpeg" Overlap="0" '
        f'TileSize="{TILE_PX}">'
        f'<Size Width="{size_l0.width}" Height="{size_l0.height}"/></Image>'
    ).encode()
