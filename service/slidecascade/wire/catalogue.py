"""What a service offers: models, pipelines, slides, and its health."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slidecascade.wire.fields import Answer, Color, StainMethod
from slidecascade.wire.regions import RegionBox


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
    task: Literal["segment", "classify", "translate"]
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
    companions: tuple[str, ...] = Field(
        default=(), description="models that find no cells; a class's part of the tissue is reported for each"
    )
    thresholds: dict[str, float] = Field(default_factory=dict, description="defaults by model name")
    stain: StainMethod = Field(default="none", description="stain normalisation unless a request overrides it")
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
    channels: tuple[str, ...] = Field(default=(), description="names of the channels, in their order")
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
