"""The calls of the API: what each sends and how its answer is read."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from urllib.parse import quote

from pydantic import ValidationError

from slidecascade.wire import (
    JSON,
    ZIP,
    FieldError,
    ModelInfo,
    ModelList,
    PipelineInfo,
    PipelineList,
    RegionBox,
    RegionRequest,
    SlideInfo,
    SlideList,
)
from slidecascade_client.body import ImageInput, json_body, region_body
from slidecascade_client.errors import (
    ConnectionFailedError,
    InvalidRequestError,
    RetryLaterError,
    ServiceFailedError,
    SlideCascadeClientError,
    TimedOutError,
)
from slidecascade_client.exchange import Call
from slidecascade_client.result import RegionResult

RegionInput = RegionBox | tuple[int, int, int, int]
"""A box, or (x, y, width, height), in level-0 pixels of the slide or pixels of the uploaded image."""

_HEALTH_S = 10.0  # health answers at once, also while regions are computed; later is unhealthy


def analyze_region(
    image: ImageInput | None,
    *,
    pipeline: str,
    mpp: float | None,
    slide: str | None,
    region: RegionInput | None,
    thresholds: Mapping[str, float] | None,
    tile_px: int | None,
    allow_partial: bool,
    deadline_s: float | None,
) -> Call[RegionResult]:
    """Analyse one region; the archive is asked for because it holds every answer of one analysis."""
    if (image is None) == (slide is None):
        raise invalid("image", "give either an image or the id of a slide")
    fields = {
        "pipeline": pipeline,
        "mpp": mpp,
        "slide": slide,
        "region": region_box(region),
        "thresholds": dict(thresholds or {}),
        "tile_px": tile_px,
        "allow_partial": allow_partial,
        "deadline_s": deadline_s,
    }
    try:
        request = RegionRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(".".join(str(part) for part in first["loc"]), first["msg"]) from error
    document = request.model_dump_json(exclude_defaults=True)
    return Call(
        method="POST",
        path="/v1/regions",
        accept=ZIP,
        read=RegionResult,
        body=json_body(document) if image is None else region_body(image, document),
        # Who sets a deadline has no use for a try that starts after it.
        retry_within_s=math.inf if deadline_s is None else deadline_s,
    )


def pipelines() -> Call[tuple[PipelineInfo, ...]]:
    return Call(
        method="GET",
        path="/v1/pipelines",
        accept=JSON,
        read=lambda reply: reply.take_json(PipelineList).pipelines,
    )


def pipeline(name: str) -> Call[PipelineInfo]:
    return Call(
        method="GET",
        path=f"/v1/pipelines/{segment(name)}",
        accept=JSON,
        read=lambda reply: reply.take_json(PipelineInfo),
    )


def models() -> Call[tuple[ModelInfo, ...]]:
    return Call(
        method="GET",
        path="/v1/models",
        accept=JSON,
        read=lambda reply: reply.take_json(ModelList).models,
    )


def model(name: str) -> Call[ModelInfo]:
    return Call(
        method="GET",
        path=f"/v1/models/{segment(name)}",
        accept=JSON,
        read=lambda reply: reply.take_json(ModelInfo),
    )


def slides() -> Call[SlideList]:
    return Call(method="GET", path="/v1/slides", accept=JSON, read=lambda reply: reply.take_json(SlideList))


def slide(slide_id: str) -> Call[SlideInfo]:
    return Call(
        method="GET",
        path=f"/v1/slides/{_slide_path(slide_id)}",
        accept=JSON,
        read=lambda reply: reply.take_json(SlideInfo),
    )


def health(path: str) -> Call[bool]:
    """Whether `path` (``/livez`` or ``/readyz``) answers with a success; tried once."""
    return Call(
        method="GET",
        path=path,
        accept="*/*",
        read=lambda reply: reply.take() is not None,
        recover=_unhealthy,
        retry_within_s=0.0,
        time_limit_s=_HEALTH_S,
    )


def _unhealthy(error: SlideCascadeClientError) -> bool:
    if isinstance(error, ConnectionFailedError | TimedOutError | RetryLaterError | ServiceFailedError):
        return False
    raise error  # e.g. 404: this is another service, and waiting for it would never end


def region_box(region: RegionInput | None) -> RegionBox | dict[str, int] | None:
    """`region` as the request takes it, its values still to be checked there."""
    if region is None or isinstance(region, RegionBox):
        return region
    try:
        x, y, width, height = map(operator.index, region)  # takes numpy's integers, refuses fractions
    except (TypeError, ValueError) as error:
        raise invalid("region", "give whole pixels as (x, y, width, height)") from error
    return {"x": x, "y": y, "width": width, "height": height}


def invalid(field: str, message: str) -> InvalidRequestError:
    """The error for a field that is found wrong before anything is sent."""
    error = InvalidRequestError(f"Nothing was sent, because {field} is wrong: {message}.")
    error.fields = (FieldError(field=field, message=message),)
    return error


def segment(name: str) -> str:
    """`name` as one segment of a path; its dots too, because ``..`` would be resolved away."""
    return quote(name, safe="").replace(".", "%2E")


def _slide_path(slide_id: str) -> str:
    """A slide id keeps its slashes (some proxies refuse ``%2F``) unless they would make another path."""
    parts = slide_id.split("/")
    return segment(slide_id) if {"", ".", ".."} & set(parts) else quote(slide_id, safe="/")
