"""The request to analyse a region."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from slidecascade.wire.fields import (
    MAX_NAME,
    MAX_THRESHOLDS,
    WHOLE,
    Channels,
    Coordinate,
    Extent,
    Fraction,
    ObjectDiameter,
    Options,
    PositiveFinite,
    Resolution,
    Stain,
    WireModel,
    one_size,
    one_size_schema,
)
from slidecascade.wire.problems import refusal


class RegionBox(WireModel):
    """A rectangle in level-0 pixels of the slide, or pixels of the uploaded image."""

    x: Coordinate = Field(description="left edge")
    y: Coordinate = Field(description="top edge")
    width: Extent
    height: Extent

    @classmethod
    def of(cls, x: int, y: int, width: int, height: int) -> RegionBox:
        return cls(x=x, y=y, width=width, height=height)


class RegionRequest(WireModel):
    """The region to analyse, the pipeline and its options."""

    model_config = ConfigDict(json_schema_extra=one_size_schema())

    pipeline: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    mpp: Resolution | None = Field(
        default=None, description="micrometres per pixel; required when the source states none"
    )
    object_diameter_px: ObjectDiameter | None = Field(
        default=None,
        description="the usual diameter of the objects in pixels of the image, in place of `mpp`, for images "
        "without a physical pixel size: the image is scaled so that they reach the network at the size that it "
        "was trained for; the answer then states nothing in micrometres",
    )
    slide: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="slide id as listed by /v1/slides; absent for an uploaded image"
    )
    region: RegionBox | None = Field(default=None, description="default: all of the image or slide")
    thresholds: dict[Annotated[str, Field(max_length=MAX_NAME)], Fraction] = Field(
        default_factory=dict,
        max_length=MAX_THRESHOLDS,
        description="by model name, overriding the pipeline's defaults: foreground probability of a segmenter; "
        "minimum class probability of a classifier, below which a cell is Unclassified and counted as such",
    )
    tile_px: Annotated[int, Field(strict=True, ge=64, le=2048), WHOLE] | None = Field(
        default=None, description="tile size in pixels of the segmenter; changes speed but not cells"
    )
    channels: Channels = Field(default_factory=dict)
    stain: Stain | None = Field(
        default=None,
        description="normalises the colours that networks are given, by a fit on the tissue of the whole slide; "
        "default: the pipeline's",
    )
    options: Options = Field(default_factory=Options, description="options that cost time; default: none")
    allow_partial: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="return a result even when tiles failed"
    )
    origin: Literal["slide", "bounds"] = Field(
        default="slide",
        description="what the coordinates of the answer's outlines count from: the corner of level 0, or that of "
        "the slide's bounds, as in QuPath; without bounds both are the same",
    )
    deadline_s: PositiveFinite | None = Field(
        default=None, description="deadline in seconds from the start of the request, including the upload"
    )

    @field_validator("object_diameter_px")
    @classmethod
    def _one_size(cls, diameter_px: float | None, info: ValidationInfo) -> float | None:
        return one_size(diameter_px, info.data.get("mpp"))


def parse_request(fields: object) -> RegionRequest:
    """A request from untrusted fields.

    Raises:
        InvalidRequestError: for invalid fields, which it lists.
    """
    try:
        return RegionRequest.model_validate(fields)
    except ValidationError as error:
        raise refusal(error) from None
