"""The JSON contract of the HTTP API, version 1. Depends on pydantic only; the client uses it too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidecascade.errors import InvalidRequestError

RESEARCH_USE_ONLY = "For Research Use Only. Not for use in diagnostic procedures."
PROBLEM_PREFIX = "urn:slidecascade:problem:"

GEOJSON = "application/geo+json"
JSON = "application/json"
PNG = "image/png"
ZIP = "application/zip"
PARQUET = "application/vnd.apache.parquet"
PROBLEM = "application/problem+json"

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Resolution = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False, strict=True)]
"""Micrometres per pixel, within what microscopes make; 0.00025 would be millimetres by mistake."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
MAX_COORDINATE = 2**31 - 1
"""No slide is larger; a number beyond it is refused unread rather than repeated."""

MAX_THRESHOLDS = 32
MAX_ERRORS = 20
"""Most wrong fields an answer lists: a million of them help nobody."""

MAX_NAME = 100
Coordinate = Annotated[int, Field(strict=True, ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
Extent = Annotated[int, Field(strict=True, ge=1, le=MAX_COORDINATE)]
Color = tuple[int, int, int]


class WireModel(BaseModel):
    """Frozen; unknown members are refused so that a misspelt field never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """Answers may gain members, so readers ignore those they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


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
    """What to analyse and how."""

    pipeline: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    mpp: Resolution | None = Field(
        default=None, description="micrometres per pixel; required when the source states none"
    )
    slide: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="slide id as listed by /v1/slides; absent for an uploaded image"
    )
    region: RegionBox | None = Field(default=None, description="default: all of the image or slide")
    thresholds: dict[Annotated[str, Field(max_length=MAX_NAME)], Fraction] = Field(
        default_factory=dict,
        max_length=MAX_THRESHOLDS,
        description="by model name, in place of the pipeline's own: foreground probability of a segmenter; least "
        "probability of a classifier's class, below which a cell is Unclassified and counted as such",
    )
    tile_px: Annotated[int, Field(strict=True, ge=64, le=2048)] | None = Field(
        default=None, description="tile size in pixels of the segmenter; changes speed but not cells"
    )
    allow_partial: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="answer even when tiles failed"
    )
    deadline_s: PositiveFinite | None = Field(
        default=None, description="give up this many seconds after the request began; the upload is part of it"
    )


def parse_request(fields: object) -> RegionRequest:
    """A request from untrusted fields.

    Raises:
        InvalidRequestError: that lists every field that cannot be used.
    """
    try:
        return RegionRequest.model_validate(fields)
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> InvalidRequestError:
    """The fields that are wrong, in the words of the contract, the first `MAX_ERRORS` of them.

    Values a caller sent are not repeated, and names are cut at `MAX_NAME` characters.
    """
    details = error.errors(include_url=False, include_input=False, include_context=False)
    wrong = tuple((_dotted(item["loc"]), str(item["msg"])) for item in details[:MAX_ERRORS])
    field, message = wrong[0]
    others = f" and {len(details) - 1} more" if len(details) > 1 else ""
    return InvalidRequestError(f"The field {field!r} is wrong: {message}{others}.", wrong)


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ".".join(map(str, location)) or "request"
    return path if len(path) <= MAX_NAME else path[:MAX_NAME] + "..."


class ModelUse(Answer):
    """A model that took part in an answer."""

    name: str
    version: int
    sha256: str
    role: Literal["segmenter", "classifier"]
    mpp: float = Field(description="micrometres per pixel the model read at")
    downsample: float = Field(description="level-0 pixels per pixel the model read")


class FailedTile(Answer):
    """A tile that failed twice; its place in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int
    reason: str


class Tiles(Answer):
    total: int
    background: int = Field(description="skipped because they hold glass only")
    failed: tuple[FailedTile, ...] = ()


class SlideUse(Answer):
    """The slide, or the uploaded image, an answer is about."""

    content_id: str = Field(description="the same for the same bytes under any name")
    bounds: RegionBox | None = Field(default=None, description="the part of level 0 the scanner filled")


class Facts(Answer):
    """What was computed once for the slide, whatever region was asked for."""

    field: Literal["bright", "dark"] = Field(description="light shines through (bright) or is emitted (dark)")
    glass_minimum: int = Field(description="a glass block's darkest channel is at least this, 0 to 255")
    glass_spread: int = Field(description="a glass block's channels differ by at most this")


class Share(Answer):
    """A fraction with the numbers it was made of; `value` is null when nothing was counted."""

    value: float | None
    numerator: int
    denominator: int
    of: str


class Legend(Answer):
    """How to read a heatmap."""

    name: str
    title: str
    unit: str
    minimum: float
    maximum: float
    colormap: str
    stops: tuple[Color, ...] = Field(description="colours from minimum to maximum, evenly spaced")
    pixel_um: float = Field(description="side of a heatmap pixel in micrometres")


class AnswerWarning(Answer):
    """Something about an answer that should be looked at; codes are stable."""

    code: str
    message: str


class Summary(Answer):
    """What was found in a region."""

    research_use_only: str = RESEARCH_USE_ONLY
    pipeline: str
    coordinate_space: Literal["level0-pixels", "image-pixels"]
    region: RegionBox
    mpp: float
    cells: int
    counts: dict[str, int] = Field(description="cells by class")
    fractions: dict[str, Share] = Field(description="classes as parts of their parent class")
    densities_per_mm2: dict[str, float | None] = Field(description="cells per mm2 of tissue; null without tissue")
    area_mm2: float = Field(description="analysed area")
    tissue_area_mm2: float
    thresholds: dict[str, float]
    tiles: Tiles
    models: tuple[ModelUse, ...]
    slide: SlideUse | None = None
    facts: Facts | None = None
    heatmaps: tuple[Legend, ...]
    timings_s: dict[str, float] = Field(
        description="seconds of work by stage, added up over threads; 'total' is wall time"
    )
    warnings: tuple[AnswerWarning, ...] = Field(default=(), description="what makes the answer doubtful")


class ClassInfo(Answer):
    name: str
    color: Color


class TensorInfo(Answer):
    """A tensor of a network."""

    name: str
    dtype: str = Field(description="NumPy's name of the element type")
    layout: str = Field(description="N batch, C channels, H height, W width, K anything else of a fixed number")
    shape: tuple[int | str, ...] = Field(description="a size, or the name of a dimension of any size")
    channels: tuple[str, ...] = Field(default=(), description="what each channel shows")
    range: tuple[float | None, float | None] = Field(
        default=(None, None), description="lowest and highest value; null: the type's own"
    )


class InputInfo(TensorInfo):
    multiple_of: int = Field(description="of what free heights and widths must be multiples")


class OutputInfo(TensorInfo):
    stride: int = Field(description="input pixels per output pixel along free heights and widths")
    meaning: str = Field(description="what a value is, such as probability or distance")


class ModelInfo(Answer):
    """A served model, as its package states it."""

    name: str
    version: int
    task: Literal["segment", "classify"]
    head: str
    mpp: float
    inputs: tuple[InputInfo, ...] = ()
    outputs: tuple[OutputInfo, ...] = ()
    classes: tuple[ClassInfo, ...]
    licence: str
    training_data: tuple[dict[str, str], ...]
    accuracy: dict[str, float]
    sha256: str


class HeatmapInfo(Answer):
    name: str
    title: str
    kind: Literal["fraction", "density"]


class PipelineInfo(Answer):
    """A pipeline: its models in order, its possible classes, its heatmaps."""

    name: str
    title: str
    description: str
    segmenter: str
    classifiers: tuple[str, ...]
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="by model name: what holds unless a request asks otherwise"
    )
    classes: tuple[ClassInfo, ...]
    heatmaps: tuple[HeatmapInfo, ...]


class LevelInfo(Answer):
    width: int
    height: int
    downsample: float


class SlideInfo(Answer):
    """An allow-list of a slide's properties: never its label, macro image or barcode."""

    id: str
    width: int
    height: int
    mpp: float | None
    objective_power: float | None
    vendor: str | None
    content_id: str | None = Field(
        default=None, description="the same for the same bytes under any name, and part of the ids of cells"
    )
    bounds: RegionBox | None = Field(
        default=None, description="the part of level 0 the scanner filled, where the file states one"
    )
    levels: tuple[LevelInfo, ...]


class SlideRef(Answer):
    id: str


class PipelineList(Answer):
    pipelines: tuple[PipelineInfo, ...]


class ModelList(Answer):
    models: tuple[ModelInfo, ...]


class SlideList(Answer):
    slides: tuple[SlideRef, ...]
    truncated: bool = Field(default=False, description="more slides exist than are listed")


class Health(Answer):
    status: str


class FieldError(Answer):
    field: str
    message: str


class Problem(Answer):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[FieldError, ...] | None = None
    tiles: tuple[FailedTile, ...] | None = None

    @property
    def name(self) -> str:
        """The stable name, e.g. ``missing-resolution``."""
        return self.type.removeprefix(PROBLEM_PREFIX)


JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
JobOutput = Literal["geojson", "parquet", "heatmaps"]


class JobRequest(WireModel):
    """A slide, or a region of it of any size, to analyse as a job."""

    pipeline: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    slide: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="slide id as listed by /v1/slides"
    )
    region: RegionBox | None = Field(default=None, description="default: all of the slide")
    mpp: Resolution | None = Field(
        default=None, description="micrometres per pixel; required when the slide states none"
    )
    thresholds: dict[Annotated[str, Field(max_length=MAX_NAME)], Fraction] = Field(
        default_factory=dict, max_length=MAX_THRESHOLDS, description="by model name, as for a region"
    )
    allow_partial: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="finish even when tiles failed"
    )
    outputs: tuple[JobOutput, ...] = Field(
        default=("geojson", "parquet", "heatmaps"), max_length=3, description="the files that are written"
    )
    label: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="yours, to find the job by"
    )

    def region_request(self) -> RegionRequest:
        """The request of the region that the job is, of any size."""
        return RegionRequest(
            pipeline=self.pipeline,
            slide=self.slide,
            region=self.region,
            mpp=self.mpp,
            thresholds=self.thresholds,
            allow_partial=self.allow_partial,
        )


class JobProgress(Answer):
    """How far a job is; `fields_total` is null until its slide was cut into fields."""

    fields_done: int
    fields_total: int | None
    fraction: float
    cells: int
    eta_s: float | None = Field(description="seconds left, as far as can be told")


class JobLinks(Answer):
    """Paths on this server."""

    self: str
    events: str
    result: str | None = Field(default=None, description="once the job has succeeded")
    files: str | None = None
    cells: str | None = None


class JobInfo(Answer):
    """A job; times are in UTC."""

    id: str
    status: JobStatus
    pipeline: str
    slide: str
    label: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: JobProgress
    error: Problem | None = None
    links: JobLinks


class JobList(Answer):
    jobs: tuple[JobInfo, ...]
    cursor: str | None = Field(default=None, description="send it to get the next ones; null: there are no more")


class JobFile(Answer):
    name: str
    bytes: int
    media_type: str


class JobFileList(Answer):
    files: tuple[JobFile, ...]


JsonObject = dict[str, Any]
