"""The calls of the API: requests and parsing of responses."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, Literal, SupportsIndex
from urllib.parse import quote

import numpy as np
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from slidecascade.wire import (
    JSON,
    PNG,
    ZIP,
    Averaging,
    FieldError,
    Health,
    ModelInfo,
    ModelList,
    PipelineInfo,
    PipelineList,
    RegionBox,
    RegionRequest,
    SlideInfo,
    SlideList,
)
from slidecascade_client.body import ImageInput, MaskInput, json_body, mask_body, region_body
from slidecascade_client.errors import (
    ConnectionFailedError,
    InvalidRequestError,
    RetryLaterError,
    ServiceFailedError,
    SlideCascadeClientError,
    TimedOutError,
)
from slidecascade_client.exchange import Call
from slidecascade_client.reply import Reply
from slidecascade_client.result import RegionResult

RegionInput = RegionBox | tuple[int, int, int, int]
"""A box, or (x, y, width, height), in level-0 pixels of the slide or pixels of the uploaded image."""

_HEALTHY = {"/livez": "alive", "/readyz": "ready"}
_HEALTH_S = 10.0  # health answers at once, also while regions are computed; later is unhealthy


def analyze_region(
    image: ImageInput | None,
    *,
    pipeline: str,
    mpp: float | None,
    object_diameter_px: float | None,
    slide: str | None,
    region: RegionInput | None,
    thresholds: Mapping[str, float] | None,
    channels: Mapping[str, int | str] | None,
    stain: str | None,
    tile_px: int | None,
    allow_partial: bool,
    deadline_s: float | None,
    tta: Averaging = "none",
    origin: str = "slide",
) -> Call[RegionResult]:
    """Analyse one region; requests the archive, which contains all results of one analysis."""
    if (image is None) == (slide is None):
        raise invalid("image", "send either an image or the id of a slide")
    fields = {
        "pipeline": pipeline,
        "mpp": plain(mpp),
        "object_diameter_px": plain(object_diameter_px),
        "slide": slide,
        "region": region_box(region),
        "thresholds": plain_thresholds(thresholds),
        "channels": plain_channels(channels),
        "stain": None if stain is None else {"method": stain},
        "options": {"tta": tta},
        "tile_px": plain(tile_px),
        "allow_partial": plain(allow_partial),
        "deadline_s": plain(deadline_s),
        "origin": origin,
    }
    try:
        request = RegionRequest.model_validate(fields)
        document = request.model_dump_json(exclude_defaults=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(".".join(str(part) for part in first["loc"]), first["msg"]) from error
    except PydanticSerializationError as error:
        raise invalid("pipeline, slide or thresholds", "a name holds characters that are not Unicode") from error
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


def translate(mask: MaskInput, *, model: str) -> Call[bytes]:
    """Draw an image for a mask; the PNG file."""
    return Call(
        method="POST",
        path=f"/v1/translate?model={segment(model)}",
        accept=PNG,
        read=lambda reply: reply.take(),
        body=mask_body(mask),
    )


def health(path: Literal["/livez", "/readyz"]) -> Call[bool]:
    """Whether `path` answers as a healthy service does; tried once.

    Any web server answers something with 200, a portal to every address, so that the body counts.
    """
    return Call(
        method="GET",
        path=path,
        accept=JSON,
        read=lambda reply: _is_healthy(reply, _HEALTHY[path]),
        recover=_unhealthy,
        retry_within_s=0.0,
        time_limit_s=_HEALTH_S,
    )


def _is_healthy(reply: Reply, expected: str) -> bool:
    if reply.take_json(Health).status != expected:
        raise reply.unexpected(f"The answer does not say that it is {expected}")
    return True


def _unhealthy(error: SlideCascadeClientError) -> bool:
    if isinstance(error, ConnectionFailedError | TimedOutError | RetryLaterError | ServiceFailedError):
        return False
    raise error  # e.g. 404: this is another service, and waiting would not help


def region_box(region: RegionInput | None) -> RegionBox | dict[str, int] | None:
    """`region` as the request takes it, its values still to be checked there."""
    if region is None or isinstance(region, RegionBox):
        return region
    try:
        x, y, width, height = map(_whole, region)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid("region", "must be (x, y, width, height) in whole pixels") from error
    return {"x": x, "y": y, "width": width, "height": height}


def _whole(value: SupportsIndex | float) -> int:
    """`value`, also when it is written as 512.0, as QuPath and pandas do; NumPy's integers too.

    Raises:
        TypeError, ValueError, OverflowError: when it is anything else.
    """
    if isinstance(value, float | np.floating):
        if value != int(value):
            raise ValueError("not a whole number")
        return int(value)
    return operator.index(value)


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's number, so that float32 and int64 are accepted; other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def plain_thresholds(thresholds: Mapping[str, float] | None) -> dict[str, Any]:
    """Thresholds as Python's numbers; raises InvalidRequestError when they are no mapping."""
    if thresholds is None:
        return {}
    if not isinstance(thresholds, Mapping):
        raise invalid("thresholds", "give a mapping of model names to numbers in [0, 1]")
    return {name: plain(value) for name, value in thresholds.items()}


def plain_channels(channels: Mapping[str, int | str] | None) -> dict[str, Any]:
    """Channels with Python's numbers; raises InvalidRequestError when they are no mapping."""
    if channels is None:
        return {}
    if not isinstance(channels, Mapping):
        raise invalid("channels", "give a mapping of meanings to indices or names of channels")
    return {meaning: plain(value) for meaning, value in channels.items()}


def invalid(field: str, message: str) -> InvalidRequestError:
    """The error for a field that is found wrong before anything is sent."""
    error = InvalidRequestError(f"Nothing was sent, because {field} is wrong: {message}.")
    error.fields = (FieldError(field=field, message=message),)
    return error


def segment(name: str) -> str:
    """`name` as one segment of a path; its dots too, because ``..`` would be resolved away."""
    return _quoted(name, safe="").replace(".", "%2E")


def _quoted(name: str, *, safe: str) -> str:
    try:
        return quote(name, safe=safe)
    except (TypeError, UnicodeEncodeError) as error:
        raise invalid("the name", "give text that is Unicode, e.g. an id as `slides` lists it") from error


def _slide_path(slide_id: str) -> str:
    """A slide id keeps its slashes (some proxies refuse ``%2F``) unless they would make another path."""
    quoted = _quoted(slide_id, safe="/")
    return segment(slide_id) if {"", ".", ".."} & set(quoted.split("/")) else quoted
