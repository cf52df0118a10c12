"""Pipelines of the kind ``cells``: a segmenter, a cascade of classifiers, heatmaps."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from slidecascade.errors import PipelineSpecError
from slidecascade.heads.head import MaskHead, ObjectHead
from slidecascade.heads.table import find
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import ClassifierSpec, Name, SegmenterSpec
from slidecascade.pipelines.areas import least_area_um2
from slidecascade.pipelines.classes import CellClass, ClassTree
from slidecascade.pipelines.heatmaps import HeatmapSpec
from slidecascade.pipelines.spec import (
    FileKind,
    HeatmapTitle,
    Pipeline,
    PipelineSpec,
    Probability,
    SpecPart,
    require_classes,
    require_classifier,
    require_image,
    require_segmenter,
)
from slidecascade.slides.channels import RGB

UNCLASSIFIED = CellClass(("Unclassified",), (153, 153, 153))
NOWHERE = -1
SPOT_MEASURES: Final = ("Spots", "Spot intensity")
"""Of a cell with the option `spots`: how many, and their mean height over their surroundings in counts."""


class StageSpec(SpecPart):
    """A classifier and the class of the stage before that it refines; None: it sees every cell.

    `floor` is the least probability a class must reach here; None: the floor of the model's own options.
    """

    model: Name
    select: str | None = None
    floor: Probability | None = None


class HeatmapFields(SpecPart):
    """See `slidecascade.pipelines.heatmaps.HeatmapSpec`."""

    name: Name
    title: str
    kind: Literal["fraction", "density"]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    of: tuple[str, ...] = ()
    grid_um: Annotated[float, Field(ge=1, le=1000)] = 16.0
    sigma_um: Annotated[float, Field(ge=1, le=1000)] = 40.0
    maximum: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _a_fraction_has_a_whole(self) -> HeatmapFields:
        if (self.kind == "fraction") != bool(self.of):
            raise ValueError("a fraction needs `of`, a density has none")
        if self.sigma_um > 50 * self.grid_um:
            raise ValueError("sigma_um may be at most 50 times grid_um: take a coarser grid")
        return self


class SpotsFields(SpecPart):
    """Spots to count in each cell: in which channel, their standard deviation, and how far above the noise."""

    channel: Annotated[str, Field(pattern=r"^[^:\n\r]{1,60}$")] = "spots"
    sigma_um: Annotated[float, Field(gt=0, le=10)] = 0.65
    snr: Annotated[float, Field(ge=1, le=100)] = 5.0


class AreaFractionFields(SpecPart):
    """A semantic network that runs beside the cells, and the class whose part of the tissue is reported."""

    name: Name
    title: str
    model: Name
    class_name: Annotated[str, Field(alias="class")]


class CellsSpec(PipelineSpec):
    """A pipeline file of this kind, which is also that of a file that states none."""

    kind: Literal["cells"] = "cells"
    segmenter: Name
    cascade: tuple[StageSpec, ...] = ()
    heatmaps: Annotated[tuple[HeatmapFields, ...], Field(min_length=1)]
    spots: SpotsFields | None = None
    area_fractions: Annotated[tuple[AreaFractionFields, ...], Field(max_length=8)] = ()

    @property
    def model_names(self) -> frozenset[str]:
        beside = (item.model for item in self.area_fractions)
        return frozenset({self.segmenter, *(stage.model for stage in self.cascade), *beside})

    def served_with(self, models: Container[str]) -> Self:
        kept = tuple(item for item in self.area_fractions if item.model in models)
        return self.model_copy(update={"area_fractions": kept})


@dataclass(frozen=True, slots=True)
class Stage:
    """A classifier, and the index of the class of the stage before that it refines; None: it sees every cell.

    A cell none of whose classes reaches the probability `floor` is unclassified, unless a request asks otherwise.
    """

    model: ClassifierSpec
    parent: int | None
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotsOption:
    """Spots are counted in the channel of that meaning; see `SpotsFields`."""

    channel: str
    sigma_um: float
    snr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaFraction:
    """The part of the tissue that class number `class_index` of `model` covers.

    Areas smaller than `min_area_um2` do not count.
    """

    name: str
    title: str
    model: SegmenterSpec
    head: MaskHead[Any]
    class_index: int
    min_area_um2: float

    @property
    def class_name(self) -> str:
        return self.model.class_names[self.class_index]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsPipeline(Pipeline):
    """A segmenter and the cascade behind it.

    `leaves[k][c]` is the index in `classes.ends` of class ``c`` of stage ``k``, `NOWHERE` for a class that stage
    ``k + 1`` refines; the last entry, ``leaves[k][-1]``, is for cells that stage ``k`` saw but for which no class
    was probable enough.
    """

    kind: ClassVar[str] = "cells"

    segmenter: SegmenterSpec
    head: ObjectHead[Any]
    stages: tuple[Stage, ...]
    leaves: tuple[tuple[int, ...], ...]
    heatmaps: tuple[HeatmapSpec, ...]
    spots: SpotsOption | None = None
    area_fractions: tuple[AreaFraction, ...] = ()

    @property
    def models(self) -> tuple[SegmenterSpec | ClassifierSpec, ...]:
        return (self.segmenter, *(stage.model for stage in self.stages), *self.companions)

    @property
    def companions(self) -> tuple[SegmenterSpec, ...]:
        return tuple(item.model for item in self.area_fractions)

    @property
    def channels(self) -> tuple[str, ...]:
        if self.stages or self.area_fractions:
            return ()
        return self.segmenter.input.channels + self.count_channels

    @property
    def count_channels(self) -> tuple[str, ...]:
        return () if self.spots is None else (self.spots.channel,)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what is measured of each cell beside its area and score."""
        return () if self.spots is None else SPOT_MEASURES

    @property
    def percentiles(self) -> tuple[float, float]:
        return self.segmenter.input.percentiles

    @property
    def object_diameter_um(self) -> float | None:
        diameter_px = self.segmenter.object_diameter_px
        return None if diameter_px is None else diameter_px * self.mpp_of(self.segmenter)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Foreground probability of the segmenter, the floors of the classifiers, and those of companions."""
        floors = {stage.model.name: stage.floor for stage in self.stages}
        beside = {model.name: model.options.foreground for model in self.companions}
        return {self.segmenter.name: self.segmenter.options.foreground} | floors | beside

    @property
    def heatmap_titles(self) -> tuple[HeatmapTitle, ...]:
        return tuple(HeatmapTitle(name=item.name, title=item.title, kind=item.kind) for item in self.heatmaps)


def assemble(spec: CellsSpec, models: Mapping[str, ModelPackage]) -> CellsPipeline:
    """The pipeline that `spec` describes; raises PipelineSpecError when its models do not fit together."""
    segmenter = require_image(spec.name, spec.segmenter, models)
    head = find(segmenter.head)
    if not isinstance(head, ObjectHead):
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: the head {segmenter.head!r} of {segmenter.name!r} finds no objects."
        )
    stages = _stages(spec, models)
    if stages and segmenter.input.channels != RGB:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: {segmenter.name!r} takes {', '.join(segmenter.input.channels)}, but "
            "classifiers take colours: leave out `cascade`."
        )
    classes, leaves = _class_tree(segmenter, stages)
    for heatmap in spec.heatmaps:
        for wanted in (*heatmap.classes, *heatmap.of):
            if wanted not in classes.groups:
                raise PipelineSpecError(
                    f"Pipeline {spec.name!r}: heatmap {heatmap.name!r} names the class {wanted!r}; "
                    f"there are {', '.join(end.name for end in classes.ends)}."
                )
    return CellsPipeline(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        stain=spec.stain,
        stained_with=spec.stained_with,
        segmenter=segmenter,
        head=head,
        stages=stages,
        classes=classes,
        leaves=leaves,
        heatmaps=tuple(HeatmapSpec(**dict(heatmap)) for heatmap in spec.heatmaps),
        spots=_spots(spec, segmenter, stages),
        area_fractions=_area_fractions(spec, segmenter, spec.cascade, models),
    )


def _area_fractions(
    spec: CellsSpec, segmenter: SegmenterSpec, stages: tuple[StageSpec, ...], models: Mapping[str, ModelPackage]
) -> tuple[AreaFraction, ...]:
    if not spec.area_fractions:
        return ()
    if segmenter.input.channels != RGB or spec.spots is not None:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: networks of `area_fractions` take the colours of a slide, but the pipeline "
            "is given channels: leave out `area_fractions`."
        )
    names = [item.name for item in spec.area_fractions]
    used = [spec.segmenter, *(stage.model for stage in stages), *(item.model for item in spec.area_fractions)]
    for what, listed in (("model", used), ("name", names)):
        if twice := [item for item in listed if listed.count(item) > 1]:
            raise PipelineSpecError(
                f"Pipeline {spec.name!r}: the {what} {twice[0]!r} is used twice: give each of `area_fractions` a "
                "name and a model of its own."
            )
    return tuple(_area_fraction(spec.name, item, models) for item in spec.area_fractions)


def _area_fraction(pipeline: str, fields: AreaFractionFields, models: Mapping[str, ModelPackage]) -> AreaFraction:
    model = require_segmenter(pipeline, fields.model, models)
    head = find(model.head)
    if not isinstance(head, MaskHead):
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: the head {model.head!r} of {model.name!r} makes no mask: name a semantic "
            "network in `area_fractions`."
        )
    require_classes(pipeline, (fields.class_name,), model)
    return AreaFraction(
        name=fields.name,
        title=fields.title,
        model=model,
        head=head,
        class_index=model.class_names.index(fields.class_name),
        min_area_um2=least_area_um2(pipeline, model),
    )


def _spots(spec: CellsSpec, segmenter: SegmenterSpec, stages: tuple[Stage, ...]) -> SpotsOption | None:
    if spec.spots is None:
        return None
    if stages:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: classifiers take colours and `spots` a channel: leave out one of the two."
        )
    if spec.spots.channel in segmenter.input.channels:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: the channel {spec.spots.channel!r} of `spots` is one of the segmenter's, "
            "which is scaled by percentiles: give it another name, and the same channel in requests."
        )
    return SpotsOption(channel=spec.spots.channel, sigma_um=spec.spots.sigma_um, snr=spec.spots.snr)


def _stages(spec: CellsSpec, models: Mapping[str, ModelPackage]) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for position, fields in enumerate(spec.cascade):
        model = require_classifier(spec.name, fields.model, models)
        before = [item.name for item in stages[-1].model.classes] if stages else []
        if (fields.select is None) != (position == 0) or (fields.select and fields.select not in before):
            raise PipelineSpecError(
                f"Pipeline {spec.name!r}: stage {position + 1} must "
                + ("select one of " + ", ".join(before) if before else "see every cell, without `select`")
                + "."
            )
        parent = None if fields.select is None else before.index(fields.select)
        floor = model.options.floor if fields.floor is None else fields.floor
        stages.append(Stage(model, parent, floor))
    return tuple(stages)


def _class_tree(
    segmenter: SegmenterSpec, stages: tuple[Stage, ...]
) -> tuple[ClassTree, tuple[tuple[int, ...], ...]]:
    """All final classes, and for each stage where its classes are among them."""
    if not stages:
        first = segmenter.classes[0]
        return ClassTree((CellClass((first.name,), first.color),)), ()
    classes: list[CellClass] = []
    leaves: list[tuple[int, ...]] = []
    prefix: tuple[str, ...] = ()
    for position, stage in enumerate(stages):
        refined = stages[position + 1].parent if position + 1 < len(stages) else None
        places: list[int] = []
        ends = [CellClass((item.name,), item.color) for item in stage.model.classes]
        for index, end in enumerate([*ends, UNCLASSIFIED]):
            if index == refined:
                # No cell ends here: the next stage decides, and overwrites this place.
                places.append(NOWHERE)
                continue
            places.append(len(classes))
            classes.append(CellClass(prefix + end.path, end.color))
        leaves.append(tuple(places))
        if refined is not None:
            prefix += (stage.model.classes[refined].name,)
    return ClassTree(tuple(classes)), tuple(leaves)


FILE = FileKind("cells", CellsSpec, assemble)
