"""Pipelines of the kind ``areas``: one semantic network, whose mask is the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from slidecascade.errors import PipelineSpecError
from slidecascade.heads.head import MaskHead
from slidecascade.heads.table import find
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import ClassifierSpec, Name, SegmenterSpec
from slidecascade.pipelines.spec import (
    FileKind,
    HeatmapTitle,
    Pipeline,
    PipelineSpec,
    SpecPart,
    own_classes,
    require_classes,
    require_segmenter,
)

MOST_SMALL_PX = 4096
"""A region is read this much further at most, to see whether what its edge cuts is a small area."""


MOST_OVERLAPPING = 8
"""Classes that may overlap: a mask has a bit for each."""


class CoverageMapFields(SpecPart):
    """A heatmap of the share of a neighbourhood that a class covers."""

    name: Name
    title: str
    class_name: Annotated[str, Field(alias="class")]
    grid_um: Annotated[float, Field(ge=1, le=10_000)] = 64.0
    maximum: Annotated[float, Field(gt=0, le=1)] = 1.0


class AreasSpec(PipelineSpec):
    """A pipeline file of this kind.

    Areas smaller than `min_area_um2` are left out; default: those of the model's options. `sizes` are classes of
    size: names, and the equivalent diameter in um from which on an area is of it; each area is of the largest it
    reaches.
    """

    kind: Literal["areas"]
    segmenter: Name
    min_area_um2: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    sizes: Annotated[dict[Name, Annotated[float, Field(ge=0, le=1e6)]], Field(max_length=16)] = Field(
        default_factory=dict
    )
    heatmaps: Annotated[tuple[CoverageMapFields, ...], Field(min_length=1)]

    @property
    def model_names(self) -> frozenset[str]:
        return frozenset({self.segmenter})


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageMap:
    """A heatmap: of the share that class number `class_index` of the network covers of squares of `grid_um`."""

    name: str
    title: str
    class_index: int
    grid_um: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AreasPipeline(Pipeline):
    """A semantic network and what is made of its mask.

    `sizes` are the names of classes of size and their least equivalent diameters in um, which rise.
    """

    kind: ClassVar[str] = "areas"

    segmenter: SegmenterSpec
    head: MaskHead[Any]
    min_area_um2: float
    heatmaps: tuple[CoverageMap, ...]
    sizes: tuple[tuple[str, float], ...] = ()

    @property
    def models(self) -> tuple[SegmenterSpec | ClassifierSpec, ...]:
        return (self.segmenter,)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The probability from which a pixel is of a class."""
        return {self.segmenter.name: self.segmenter.options.foreground}

    @property
    def heatmap_titles(self) -> tuple[HeatmapTitle, ...]:
        return tuple(HeatmapTitle(name=item.name, title=item.title, kind="coverage") for item in self.heatmaps)


def assemble(spec: AreasSpec, models: Mapping[str, ModelPackage]) -> AreasPipeline:
    """The pipeline that `spec` describes; raises PipelineSpecError when it names what its model does not have."""
    segmenter = require_segmenter(spec.name, spec.segmenter, models)
    head = find(segmenter.head)
    if not isinstance(head, MaskHead):
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: the head {segmenter.head!r} of {segmenter.name!r} makes no mask: "
            "name a segmenter whose head is semantic, classes or overlapping."
        )
    if len(segmenter.classes) > 255:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: a mask has at most 255 classes, {segmenter.name!r} has "
            f"{len(segmenter.classes)}: divide them between networks."
        )
    if head.overlaps and len(segmenter.classes) > MOST_OVERLAPPING:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: a mask has at most {MOST_OVERLAPPING} classes that overlap, "
            f"{segmenter.name!r} has {len(segmenter.classes)}: divide them between networks."
        )
    require_classes(spec.name, tuple(item.class_name for item in spec.heatmaps), segmenter)
    return AreasPipeline(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        stain=spec.stain,
        stained_with=spec.stained_with,
        classes=own_classes(segmenter),
        segmenter=segmenter,
        head=head,
        min_area_um2=least_area_um2(spec.name, segmenter, spec.min_area_um2),
        sizes=tuple(sorted(spec.sizes.items(), key=lambda item: item[1])),
        heatmaps=tuple(
            CoverageMap(
                name=item.name,
                title=item.title,
                class_index=segmenter.class_names.index(item.class_name),
                grid_um=item.grid_um,
                maximum=item.maximum,
            )
            for item in spec.heatmaps
        ),
    )


def least_area_um2(pipeline: str, segmenter: SegmenterSpec, stated_um2: float | None = None) -> float:
    """The smallest area that is kept: as stated, or that of the model's options.

    Raises:
        PipelineSpecError: it is larger than can be seen beyond the edge of a region.
    """
    least_um2 = segmenter.options.min_area_um2 if stated_um2 is None else stated_um2
    if least_um2 / segmenter.mpp**2 > MOST_SMALL_PX:
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: min_area_um2 may be {MOST_SMALL_PX * segmenter.mpp**2:g} at most at "
            f"{segmenter.mpp:g} um/px."
        )
    return least_um2


FILE = FileKind("areas", AreasSpec, assemble)
