"""``POST /v1/translate``: a mask of objects in, an image drawn by a network out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import errors
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.models.masks import drawn_image, mask_planes
from slidecascade.models.spec import TranslatorSpec
from slidecascade.outputs import png
from slidecascade.slides.canvas import Unwatched
from slidecascade.slides.imageheader import read_header
from slidecascade.slides.maskpng import NOT_GREY
from slidecascade.slides.upload import EncodedImage
from slidecascade.web.inference import Inferences
from slidecascade.web.statuses import problems
from slidecascade.wire import PNG

PATH: Final = "/v1/translate"
_FULL: Final = 2**16 - 1
_DOCUMENT: Final[dict[str, Any]] = {
    "summary": "Draw an image for a mask",
    "response_class": Response,
    "responses": {
        200: {
            "description": "The image: PNG of 16 bits, grey or RGB, of the mask's size.",
            "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(
            errors.MalformedRequestError,
            errors.UnknownModelError,
            errors.UploadTooLargeError,
            errors.RegionTooLargeError,
            errors.UnsupportedMediaTypeError,
            errors.InvalidRequestError,
            errors.UndecodableImageError,
            errors.OverloadedError,
            errors.ModelFailedError,
            errors.NotReadyError,
            errors.DeadlineExceededError,
        ),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "Grey PNG of 8 or 16 bits: 0 is background, other numbers are objects.",
            "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
}


def translation_routes(analyser: Analyser, inferences: Inferences, *, max_px: int) -> APIRouter:
    """The route; a network draws at most `max_px` pixels at a time."""
    router = APIRouter(tags=["regions"])

    @router.post(PATH, **_DOCUMENT)
    async def translate(
        request: Request, model: Annotated[str, Query(description="a model of the task `translate`")]
    ) -> Response:
        spec = _translator(analyser, model)

        def received(body: bytes) -> Callable[[Control], bytes]:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != PNG:
                raise errors.UnsupportedMediaTypeError(f"Send the mask as {PNG}.")
            return partial(_draw, analyser, spec, body, max_px)

        return Response(await inferences.run(request, received), media_type=PNG)

    return router


def _translator(analyser: Analyser, name: str) -> TranslatorSpec:
    spec = analyser.package(name).spec
    if not isinstance(spec, TranslatorSpec):
        raise errors.InvalidRequestError(
            f"The model {name!r} has the task {spec.task!r}: name one of the task 'translate'.",
            (("model", "is no translator"),),
        )
    return spec


class _Patient(Unwatched):
    """Ends the waiting for a decoder, and decoding, when `control` says so."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def reached(self, rows: int) -> None:  # noqa: ARG002 - of `Watch`
        self._control.check()


def _draw(analyser: Analyser, spec: TranslatorSpec, body: bytes, max_px: int, control: Control) -> bytes:
    mask = open_mask(body, max_px=max_px, multiple_of=spec.input.multiple_of)
    labels = analyser.decoder.mask(mask, _Patient(control))
    planes = mask_planes(labels, spec.input.channel_count, multiple_of=spec.input.multiple_of)
    outputs = analyser.infer(spec.name, {spec.input.name: planes}, control)
    image = drawn_image(outputs[spec.outputs[0].name], *labels.shape)
    return png.encode(np.rint(image * _FULL).astype(np.uint16))


def open_mask(data: bytes, *, max_px: int, multiple_of: int) -> EncodedImage:
    """What a PNG says of itself; nothing is decoded.

    Raises:
        UndecodableImageError: it is something else, or truncated.
        RegionTooLargeError: with the background that makes its sides multiples of `multiple_of`, it has more than
            `max_px` pixels.
    """
    header = read_header(data)
    if header.media_type != PNG:
        raise errors.UndecodableImageError(NOT_GREY)
    height, width = (side + -side % multiple_of for side in (header.size.height, header.size.width))
    if height * width > max_px:
        raise errors.RegionTooLargeError(
            f"The mask has {header.size.width} x {header.size.height} pixels; at most {max_px} are drawn at once, "
            f"counted with sides that are multiples of {multiple_of}: send a part of it."
        )
    return EncodedImage(data, header)
