"""Jobs: the request, its state and its files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from slidecascade.wire.fields import (
    MAX_NAME,
    MAX_THRESHOLDS,
    TEXT,
    Answer,
    Channels,
    Fraction,
    ObjectDiameter,
    Options,
    Resolution,
    Stain,
    WireModel,
    one_size,
    one_size_schema,
)
from slidecascade.wire.problems import Problem, refusal
from slidecascade.wire.regions import RegionBox, RegionRequest

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
JobOutput = Literal["geojson", "parquet", "heatmaps", "grid", "mask", "rle", "dicom"]
_WITHOUT_PIXEL_SIZE: Final = tuple(name for name in get_args(JobOutput) if name != "dicom")


class JobRequest(WireModel):
    """A slide, or a region of it of any size, to analyse as a job."""

    model_config = ConfigDict(
        json_schema_extra=one_size_schema(outputs={"items": {"enum": list(_WITHOUT_PIXEL_SIZE)}})
    )

    pipeline: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    slide: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="slide id as listed by /v1/slides; absent for an uploaded image"
    )
    region: RegionBox | None = Field(default=None, description="default: all of the slide")
    mpp: Resolution | None = Field(
        default=None, description="micrometres per pixel; required when the slide states none"
    )
    object_diameter_px: ObjectDiameter | None = Field(
        default=None, description="the usual diameter of the objects in place of `mpp`, as for a region"
    )
    thresholds: dict[Annotated[str, Field(max_length=MAX_NAME)], Fraction] = Field(
        default_factory=dict, max_length=MAX_THRESHOLDS, description="by model name, as for a region"
    )
    channels: Channels = Field(default_factory=dict)
    stain: Stain | None = Field(default=None, description="stain normalisation, as for a region")
    options: Options = Field(default_factory=Options, description="as for a region")
    allow_partial: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="finish even if tiles fail"
    )
    outputs: tuple[JobOutput, ...] = Field(
        default=("geojson", "parquet", "heatmaps", "grid", "mask", "rle"),
        max_length=16,
        description="the files to write, those of them that the pipeline's kind has; `dicom`: objects of a DICOM "
        "slide, and the files that they are made from",
    )
    origin: Literal["slide", "bounds"] = Field(
        default="slide", description="origin of GeoJSON coordinates, as for a region"
    )
    label: Annotated[str, Field(min_length=1, max_length=200, pattern=TEXT)] | None = Field(
        default=None, description="a label to find the job by"
    )
    notify: Annotated[str, Field(min_length=1, max_length=64, pattern=TEXT)] | None = Field(
        default=None, description="name of a webhook target that the operator has configured"
    )

    @field_validator("object_diameter_px")
    @classmethod
    def _one_size(cls, diameter_px: float | None, info: ValidationInfo) -> float | None:
        return one_size(diameter_px, info.data.get("mpp"))

    @field_validator("outputs")
    @classmethod
    def _dicom_has_a_size(cls, outputs: tuple[JobOutput, ...], info: ValidationInfo) -> tuple[JobOutput, ...]:
        if "dicom" in outputs and info.data.get("object_diameter_px") is not None:
            raise ValueError(
                "DICOM objects need a pixel size: leave `dicom` out, or send `mpp` in place of the diameter"
            )
        return outputs

    def region_request(self) -> RegionRequest:
        """The job as a region request of any size."""
        return RegionRequest(
            pipeline=self.pipeline,
            slide=self.slide,
            region=self.region,
            mpp=self.mpp,
            object_diameter_px=self.object_diameter_px,
            thresholds=self.thresholds,
            channels=self.channels,
            stain=self.stain,
            options=self.options,
            allow_partial=self.allow_partial,
            origin=self.origin,
        )


MAX_BATCH = 500
IdempotencyKey = Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]


class JobOrder(JobRequest):
    """A job of a batch."""

    idempotency_key: IdempotencyKey | None = Field(
        default=None, description="the same key and request return the same job, like the header of a single one"
    )

    @property
    def job(self) -> JobRequest:
        """The request without its key."""
        return JobRequest.model_validate(self.model_dump(exclude={"idempotency_key"}))


class JobBatch(WireModel):
    """Jobs to submit together; each is accepted or rejected by itself."""

    jobs: tuple[JobOrder, ...] = Field(min_length=1, max_length=MAX_BATCH)


def parse_order(fields: object) -> JobOrder:
    """A job of a batch from untrusted fields.

    Raises:
        InvalidRequestError: for invalid fields, which it lists.
    """
    try:
        return JobOrder.model_validate(fields)
    except ValidationError as error:
        raise refusal(error) from None


class JobProgress(Answer):
    """Progress of a job; `fields_total` is null until its slide is divided into fields."""

    fields_done: int
    fields_total: int | None
    fraction: float
    cells: int
    eta_s: float | None = Field(description="estimated remaining seconds; null if unknown")


class JobLinks(Answer):
    """Paths on this server."""

    self: str
    events: str
    result: str | None = Field(default=None, description="once the job has succeeded")
    files: str | None = None
    cells: str | None = Field(
        default=None, description="of pipelines that find cells, with `parquet` in `outputs`"
    )


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
    cursor: str | None = Field(default=None, description="send it to get the next page; null on the last one")


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
    sha256: str | None = Field(default=None, description="in hexadecimal; null for results of earlier versions")
    sha1: str | None = Field(default=None, description="in hexadecimal, the hash of Attachments of FHIR R4")


class JobFieldList(Answer):
    fields: tuple[int, ...] = Field(description="indices of the fields that are done")


class JobFileList(Answer):
    files: tuple[JobFile, ...]
