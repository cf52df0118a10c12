"""Field types and base models of requests and responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Resolution = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False, strict=True)]
"""Micrometres per pixel, within the range of microscopes; 0.00025 would be a value in millimetres."""

ObjectDiameter = Annotated[float, Field(ge=1, le=10_000, allow_inf_nan=False, strict=True)]
"""Level-0 pixels."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


def one_size(object_diameter_px: float | None, mpp: object) -> float | None:
    """`object_diameter_px` of a request with `mpp`, for a validator of its field; raises ValueError for both.

    The error belongs to a field: one of the whole document is taken for malformed JSON.
    """
    if object_diameter_px is not None and mpp is not None:
        raise ValueError(
            "`mpp` and `object_diameter_px` both say at which size the image is read: send one of them"
        )
    return object_diameter_px


def one_size_schema(**besides: JsonDict) -> JsonDict:
    """What `one_size` checks, for the OpenAPI document; `besides` are schemas of members that only hold for
    a request with `object_diameter_px`."""
    null: JsonDict = {"type": "null"}
    without_diameter: JsonDict = {"properties": {"object_diameter_px": null}}
    with_diameter: JsonDict = {"properties": {"mpp": null, **besides}}
    return {"anyOf": [without_diameter, with_diameter]}


def whole(value: object) -> object:
    """`value`, with whole floats as int, because JSON has one type of numbers and some programs
    write 512.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_COORDINATE = 2**31 - 1
"""Larger than any slide; greater numbers are rejected without being repeated in the error."""

MAX_THRESHOLDS = 32
MAX_NAME = 100
MAX_CHANNELS = 8
TEXT = r"^[^\x00]*$"
"""Text that a database can store."""

WHOLE = BeforeValidator(whole)
Coordinate = Annotated[int, Field(strict=True, ge=-MAX_COORDINATE, le=MAX_COORDINATE), WHOLE]
Extent = Annotated[int, Field(strict=True, ge=1, le=MAX_COORDINATE), WHOLE]
Color = tuple[int, int, int]
ChannelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Channel = Annotated[int, Field(strict=True, ge=0, le=1000), WHOLE] | ChannelName
"""An index counted from 0, or a name."""

Channels = Annotated[
    dict[ChannelName, Channel],
    Field(
        max_length=MAX_CHANNELS,
        description="by meaning (such as nuclear), the channel of the slide that the pipeline uses as it: an "
        "index from 0, or a name listed by /v1/slides/{id}; default: the channel of that name, or the only one",
    ),
]


StainMethod = Literal["none", "macenko", "reinhard", "vahadane"]


class WireModel(BaseModel):
    """Frozen; unknown members are rejected, so that a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Averaging = Literal["none", "d4", "d4-classifiers"]


class Options(WireModel):
    """Options that cost time."""

    tta: Averaging = Field(
        default="none",
        description="test-time averaging: d4 has networks see each image in all eight turns and mirror images, "
        "and averages what they find; takes eight times as long. d4-classifiers does it for classifiers only, in "
        "about twice the time",
    )


class Stain(WireModel):
    """Stain normalisation."""

    method: StainMethod


class Answer(BaseModel):
    """A response; later versions may add members, so unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


JsonObject = dict[str, Any]
