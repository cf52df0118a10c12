"""The JSON contract of the HTTP API, version 1. Depends on pydantic only; the client uses it too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slidecascade.errors import InvalidRequestError

RESEARCH_USE_ONLY = "For Research Use Only. Not for use in diagnostic procedures."
PROBLEM_PREFIX = "urn:slidecascade:problem:"

GEOJSON = "application/geo+json"
JSON = "application/json"
PNG = "image/png"
CSV = "text/csv"
ZIP = "application/zip"
PARQUET = "application/vnd.apache.parquet"
PROBLEM = "application/problem+json"

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Resolution = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False, strict=True)]
"""Micrometres per pixel, within the range of microscopes; 0.00025 would be a value in millimetres."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


def whole(value: object) -> object:
    """`value`; a float that is a whole number as that number, for JSON knows one kind of numbers and some programs
    write 512.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_COORDINATE = 2**31 - 1
"""Larger than any slide; greater numbers are rejected without being repeated in the error."""

MAX_THRESHOLDS = 32
MAX_ERRORS = 20
"""Maximum number of field errors in a response."""

MAX_NAME = 100
WHOLE = BeforeValidator(whole)
Coordinate = Annotated[int, Field(strict=True, ge=-MAX_COORDINATE, le=MAX_COORDINATE), WHOLE]
Extent = Annotated[int, Field(strict=True, ge=1, le=MAX_COORDINATE), WHOLE]
Color = tuple[int, int, int]


class WireModel(BaseModel):
    """Frozen; unknown members are rejected, so that a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """A response; later versions may add members, so unknown ones are ignored."""

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
    """The region to analyse, the pipeline and its options."""

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
        description="by model name, overriding the pipeline's defaults: foreground probability of a segmenter; "
        "minimum class probability of a classifier, below which a cell is Unclassified and counted as such",
    )
    tile_px: Annotated[int, Field(strict=True, ge=64, le=2048), WHOLE] | None = Field(
        default=None, description="tile size in pixels of the segmenter; changes speed but not cells"
    )
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


def parse_request(fields: object) -> RegionRequest:
    """A request from untrusted fields.

    Raises:
        InvalidRequestError: for invalid fields, which it lists.
    """
    try:
        return RegionRequest.model_validate(fields)
    except ValidationError as error:
        raise refusal(error) from None


def parse_order(fields: object) -> JobOrder:
    """A job of a batch, as `parse_request`."""
    try:
        return JobOrder.model_validate(fields)
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> InvalidRequestError:
    """An error with the first `MAX_ERRORS` invalid fields.

    Values from the request are not repeated, and names are truncated to `MAX_NAME` characters.
    """
    details = error.errors(include_url=False, include_input=False, include_context=False)
    wrong = tuple((_dotted(item["loc"]), str(item["msg"])) for item in details[:MAX_ERRORS])
    field, message = wrong[0]
    others = f" and {len(details) - 1} more" if len(details) > 1 else ""
    return InvalidRequestError(f"The field {field!r} is invalid: {message}{others}.", wrong)


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ".".join(map(str, location)) or "request"
    return path if len(path) <= MAX_NAME else path[:MAX_NAME] + "..."


class ModelUse(Answer):
    """A model used for a result."""

    name: str
    version: int
    sha256: str
    role: Literal["segmenter", "classifier"]
    mpp: float = Field(description="micrometres per pixel of the model's input")
    downsample: float = Field(description="level-0 pixels per pixel of the model's input")


class FailedTile(Answer):
    """A tile that failed twice; position and size in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int
    reason: str


class Tiles(Answer):
    total: int
    background: int = Field(description="skipped because they contain only glass")
    failed: tuple[FailedTile, ...] = ()


class SlideUse(Answer):
    """The analysed slide or uploaded image."""

    content_id: str = Field(description="identifies the content, independent of file names")
    bounds: RegionBox | None = Field(default=None, description="the scanned part of level 0")


class Facts(Answer):
    """Properties computed once per slide, independent of the requested region."""

    field: Literal["bright", "dark"] = Field(description="transmitted light (bright) or fluorescence (dark)")
    glass_minimum: int = Field(description="a glass block's darkest channel is at least this, 0 to 255")
    glass_spread: int = Field(description="a glass block's channels differ by at most this")


class Share(Answer):
    """A fraction with its numerator and denominator; `value` is null when the denominator is 0."""

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
    """A reason to doubt a result; codes are stable."""

    code: str
    message: str


class PatchFigures(Answer):
    """A lattice of patches, whose squares are counted from the slide's corner."""

    patches: int = Field(description="squares that hold tissue")
    patch_um: float = Field(description="side of a square in micrometres")
    columns: int
    rows: int
    first_column: int = Field(description="of the region in the slide's lattice")
    first_row: int
    outlines: dict[str, int] = Field(description="connected groups of squares above the threshold, by class")


class AreaFigures(Answer):
    """The areas of a class."""

    count: int
    area_mm2: float
    tissue_share: float | None = Field(description="part of the tissue; null without tissue")


class Summary(Answer):
    """The summary of a region's analysis."""

    research_use_only: str = RESEARCH_USE_ONLY
    kind: str = Field(default="cells", description="of the pipeline: cells, patches or areas")
    pipeline: str
    coordinate_space: Literal["level0-pixels", "image-pixels"]
    region: RegionBox
    mpp: float
    cells: int = Field(default=0, description="of a pipeline of cells")
    counts: dict[str, int] = Field(description="cells, patches above the threshold, or areas, by class")
    fractions: dict[str, Share] = Field(
        description="cells of classes as parts of their parent class, patches as parts of all"
    )
    densities_per_mm2: dict[str, float | None] = Field(
        description="cells or areas per mm2 of tissue; null without tissue"
    )
    patches: PatchFigures | None = Field(default=None, description="of a pipeline of patches")
    areas: dict[str, AreaFigures] | None = Field(default=None, description="by class, of a pipeline of areas")
    area_mm2: float = Field(description="analysed area")
    tissue_area_mm2: float
    thresholds: dict[str, float]
    tiles: Tiles
    models: tuple[ModelUse, ...]
    slide: SlideUse | None = None
    facts: Facts | None = None
    heatmaps: tuple[Legend, ...]
    timings_s: dict[str, float] = Field(description="seconds by stage, summed over threads; 'total' is wall time")
    warnings: tuple[AnswerWarning, ...] = Field(default=(), description="reasons to doubt the result")


class ClassInfo(Answer):
    name: str
    color: Color


class TensorInfo(Answer):
    """A tensor of a network."""

    name: str
    dtype: str = Field(description="NumPy's name of the element type")
    layout: str = Field(description="N batch, C channels, H height, W width, K any other of fixed size")
    shape: tuple[int | str, ...] = Field(description="sizes, or names of free dimensions")
    channels: tuple[str, ...] = Field(default=(), description="meaning of each channel")
    range: tuple[float | None, float | None] = Field(
        default=(None, None), description="minimum and maximum value; null: those of the dtype"
    )


class InputInfo(TensorInfo):
    multiple_of: int = Field(description="free heights and widths must be multiples of this")


class OutputInfo(TensorInfo):
    stride: int = Field(description="input pixels per output pixel along free heights and widths")
    meaning: str = Field(description="quantity, such as probability or distance")


class ModelInfo(Answer):
    """A served model, from its package."""

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
    kind: str = Field(description="fraction or density of cells, probability of patches, coverage by areas")


class PipelineInfo(Answer):
    """A pipeline: its models in order, its possible classes, its heatmaps."""

    name: str
    kind: str = Field(default="cells", description="cells, patches or areas")
    title: str
    description: str
    segmenter: str | None = None
    classifiers: tuple[str, ...]
    thresholds: dict[str, float] = Field(default_factory=dict, description="defaults by model name")
    classes: tuple[ClassInfo, ...]
    heatmaps: tuple[HeatmapInfo, ...]


class LevelInfo(Answer):
    width: int
    height: int
    downsample: float


class SlideInfo(Answer):
    """Properties of a slide; never its label, macro image or barcode."""

    id: str
    width: int
    height: int
    mpp: float | None
    objective_power: float | None
    vendor: str | None
    content_id: str | None = Field(
        default=None, description="identifies the content, independent of file names; part of the ids of cells"
    )
    bounds: RegionBox | None = Field(
        default=None, description="the scanned part of level 0, if the file states it"
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
    slide: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="slide id as listed by /v1/slides; not with an uploaded image"
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
    origin: Literal["slide", "bounds"] = Field(
        default="slide", description="what GeoJSON coordinates count from, as for a region"
    )
    label: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="yours, to find the job by"
    )
    notify: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="name of a webhook target that the operator has configured"
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
            origin=self.origin,
        )


MAX_BATCH = 500
IdempotencyKey = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")]


class JobOrder(JobRequest):
    """A job of a batch."""

    idempotency_key: IdempotencyKey | None = Field(
        default=None, description="the same key and request: the same job, as the header of a single one"
    )

    @property
    def job(self) -> JobRequest:
        """The request without its key."""
        return JobRequest.model_validate(self.model_dump(exclude={"idempotency_key"}))


class JobBatch(WireModel):
    """Jobs to submit together; each is accepted or rejected by itself."""

    jobs: tuple[JobOrder, ...] = Field(min_length=1, max_length=MAX_BATCH)


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
    slide: str | None = Field(description="null for an uploaded image")
    label: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: JobProgress
    error: Problem | None = None
    links: JobLinks


class JobBatchItem(Answer):
    """What came of one job of a batch: `job` or `problem`, and the status that it would have had by itself."""

    status: int
    job: JobInfo | None = None
    problem: Problem | None = None


class JobBatchResult(Answer):
    """In the order of the request."""

    jobs: tuple[JobBatchItem, ...]


class JobList(Answer):
    jobs: tuple[JobInfo, ...]
    cursor: str | None = Field(default=None, description="send it to get the next ones; null: there are no more")


NotificationState = Literal["waiting", "delivered", "dead"]


class NotificationInfo(Answer):
    """A notification of a job's end; `id` is its ``webhook-id``."""

    id: str
    job: str
    target: str
    event: str
    state: NotificationState
    attempts: int
    created_at: datetime
    next_at: datetime | None = Field(default=None, description="when the next attempt is made")
    ended_at: datetime | None = Field(default=None, description="when it was delivered or given up")
    error: str | None = Field(default=None, description="why the last attempt failed")


class NotificationList(Answer):
    notifications: tuple[NotificationInfo, ...]


class JobFile(Answer):
    name: str
    bytes: int
    media_type: str


class JobFileList(Answer):
    files: tuple[JobFile, ...]


JsonObject = dict[str, Any]
