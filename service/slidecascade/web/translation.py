"""``POST /v1/translate``: a mask of objects in, an image drawn by a network out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import cv2
import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from slidecascade import errors
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.models.masks import drawn_image, mask_planes
from slidecascade.models.spec import TranslatorSpec
from slidecascade.outputs import png
from slidecascade.slides.upload import open_image
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
    """The route; a mask has at most `max_px` pixels."""
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


def _draw(analyser: Analyser, spec: TranslatorSpec, body: bytes, max_px: int, control: Control) -> bytes:
    labels = read_mask(body, max_px=max_px)
    planes = mask_planes(labels, spec.input.channel_count, multiple_of=spec.input.multiple_of)
    outputs = analyser.infer(spec.name, {spec.input.name: planes}, control)
    image = drawn_image(outputs[spec.outputs[0].name], *labels.shape)
    return png.encode(np.rint(image * _FULL).astype(np.uint16))


def read_mask(data: bytes, *, max_px: int) -> NDArray[np.uint16]:
    """``(H, W)`` of a grey PNG.

    Raises:
        UndecodableImageError: it is something else, or damaged.
        RegionTooLargeError: it has more than `max_px` pixels.
    """
    header = open_image(data, max_px=max_px).header
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if header.media_type != PNG or labels is None or labels.ndim != 2:
        raise errors.UndecodableImageError(
            "The mask is no undamaged grey image: send a PNG of 8 or 16 bits in which 0 is background and other "
            "numbers are objects."
        )
    found: NDArray[np.uint16] = labels.astype(np.uint16)
    return found
