"""The summary of an analysis."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slidecascade.wire.fields import Answer, Color, Options, StainMethod
from slidecascade.wire.media import RESEARCH_USE_ONLY
from slidecascade.wire.problems import FailedTile
from slidecascade.wire.regions import RegionBox


class ModelUse(Answer):
    """A model used for a result."""

    name: str
    version: int
    sha256: str
    role: Literal["segmenter", "classifier", "companion"] = Field(
        description="a companion finds no cells; its class's part of the tissue is reported"
    )
    mpp: float = Field(
        description="micrometres per pixel of the model's input; with `object_diameter_px` as if objects had the "
        "size that the segmenter was trained for"
    )
    downsample: float = Field(description="level-0 pixels per pixel of the model's input")


class Tiles(Answer):
    total: int
    background: int = Field(description="skipped because they contain only glass")
    failed: tuple[FailedTile, ...] = ()


class SlideUse(Answer):
    """The analysed slide or uploaded image."""

    content_id: str = Field(description="identifies the content, independent of file names")
    bounds: RegionBox | None = Field(default=None, description="the scanned part of level 0")


class ChannelUse(Answer):
    """A channel that a network was given."""

    index: int = Field(description="of the channel in the slide, from 0")
    name: str
    low: int = Field(description="the count that becomes 0: the 1st percentile of the slide's sample")
    signal: int = Field(description="the mean count of a block from which on it is tissue")
    high: int = Field(description="the count that becomes the full scale: the 99.8th percentile, or more")


class StainFacts(Answer):
    """The fit that normalised the stain, by its method: stains or colours of the slide's tissue."""

    method: StainMethod
    vectors: tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="macenko, vahadane: optical density (red, green, blue) of haematoxylin and eosin"
    )
    strongest: tuple[float, ...] | None = Field(
        default=None, description="macenko, vahadane: 99th percentile of the amount of each"
    )
    means: tuple[float, ...] | None = Field(default=None, description="reinhard: of L*, a* and b*")
    deviations: tuple[float, ...] | None = Field(default=None, description="reinhard: of L*, a* and b*")


class Facts(Answer):
    """Properties computed once per slide, independent of the requested region."""

    field: Literal["bright", "dark"] = Field(description="transmitted light (bright) or fluorescence (dark)")
    glass_minimum: int = Field(description="a glass block's darkest channel is at least this, 0 to 255")
    glass_spread: int = Field(description="a glass block's channels differ by at most this")
    channels: dict[str, ChannelUse] = Field(
        default_factory=dict, description="by meaning; empty: the colours as they are"
    )
    stain: StainFacts | None = Field(default=None, description="null: colours were not normalised")


class Share(Answer):
    """A fraction with its numerator and denominator; `value` is null when the denominator is 0."""

    value: float | None
    numerator: int
    denominator: int
    of: str


class AreaShare(Answer):
    """The part of the tissue that a class of a companion model covers, not a part of cells.

    `value` is null without tissue, areas are null without `mpp`. Tissue is found at the pixel size of the
    companion, so its area differs a little from `tissue_area_mm2`.
    """

    title: str
    value: float | None
    numerator_mm2: float | None = Field(description="covered area")
    denominator_mm2: float | None = Field(description="area of tissue")
    class_name: str
    model: str


class Legend(Answer):
    """How to read a heatmap."""

    name: str
    title: str
    unit: str
    minimum: float
    maximum: float
    colormap: str
    stops: tuple[Color, ...] = Field(description="colours from minimum to maximum, evenly spaced")
    pixel_um: float | None = Field(description="side of a heatmap pixel in micrometres; null without `mpp`")


class AnswerWarning(Answer):
    """A reason to doubt a result; codes are stable."""

    code: str
    message: str


class PatchClassFigures(Answer):
    """The squares of a class that reach the threshold, and their outlines."""

    area_mm2: float
    share: float | None = Field(description="part of all squares that hold tissue; null without any")
    maximum: float | None = Field(description="highest probability")
    percentile_95: float | None = Field(description="95th percentile of the probability")
    outlines: int = Field(description="connected groups of squares")
    largest_um: float | None = Field(
        description="greatest distance between two points of one outline in micrometres; null without any"
    )


class PatchFigures(Answer):
    """A lattice of patches, whose squares are counted from the slide's corner."""

    patches: int = Field(description="squares that hold tissue")
    patch_um: float = Field(description="side of a square in micrometres")
    columns: int
    rows: int
    first_column: int = Field(description="of the region in the slide's lattice")
    first_row: int
    outlines: dict[str, int] = Field(description="connected groups of squares above the threshold, by class")
    classes: dict[str, PatchClassFigures] = Field(default_factory=dict, description="by class")


class SizeFigures(Answer):
    """The areas of a class and a size."""

    count: int
    area_mm2: float
    tissue_share: float | None = Field(description="part of the tissue; null without tissue")


class AreaFigures(SizeFigures):
    """The areas of a class."""

    sizes: dict[str, SizeFigures] = Field(
        default_factory=dict, description="by the size that the pipeline divides areas into, if it does"
    )


class Summary(Answer):
    """The summary of a region's analysis."""

    research_use_only: str = RESEARCH_USE_ONLY
    kind: str = Field(default="cells", description="of the pipeline: cells, patches or areas")
    pipeline: str
    coordinate_space: Literal["level0-pixels", "image-pixels"]
    region: RegionBox
    mpp: float | None = Field(
        description="micrometres per level-0 pixel; null with `object_diameter_px`, when nothing is in micrometres"
    )
    object_diameter_px: float | None = Field(
        default=None, description="the usual diameter of objects that the request stated in place of `mpp`"
    )
    cells: int = Field(default=0, description="of a pipeline of cells")
    counts: dict[str, int] = Field(description="cells, patches above the threshold, or areas, by class")
    fractions: dict[str, Share] = Field(
        description="cells of classes as parts of their parent class, patches as parts of all"
    )
    area_fractions: dict[str, AreaShare] | None = Field(
        default=None, description="by name, of a pipeline of cells whose file names companions"
    )
    densities_per_mm2: dict[str, float | None] = Field(
        description="cells or areas per mm2 of tissue; null without tissue or `mpp`"
    )
    patches: PatchFigures | None = Field(default=None, description="of a pipeline of patches")
    areas: dict[str, AreaFigures] | None = Field(default=None, description="by class, of a pipeline of areas")
    area_mm2: float | None = Field(description="analysed area; it and those below are null without `mpp`")
    tissue_area_mm2: float | None
    ink_mm2: float | None = Field(default=0.0, description="looks like ink of a pen; not part of the tissue")
    out_of_focus_mm2: float | None = Field(default=0.0, description="blurred; not part of the tissue")
    thresholds: dict[str, float]
    options: Options = Field(default_factory=Options, description="those that the request asked for")
    tiles: Tiles
    models: tuple[ModelUse, ...]
    slide: SlideUse | None = None
    facts: Facts | None = None
    heatmaps: tuple[Legend, ...]
    timings_s: dict[str, float] = Field(description="seconds by stage, summed over threads; 'total' is wall time")
    warnings: tuple[AnswerWarning, ...] = Field(default=(), description="reasons to doubt the result")
