"""Pipelines of the kind ``patches``: one classifier over a lattice of the slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from slidecascade.errors import PipelineSpecError
from slidecascade.heads.head import ProbabilityHead
from slidecascade.heads.table import find
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import ClassifierSpec, Name, SegmenterSpec
from slidecascade.pipelines.classes import ClassTree
from slidecascade.pipelines.spec import (
    FileKind,
    HeatmapTitle,
    Pipeline,
    PipelineSpec,
    Probability,
    SpecPart,
    own_classes,
    require_classes,
    require_classifier,
)

Edge = Literal["white", "clamp"]


class PatchFields(SpecPart):
    """The lattice, in pixels of `mpp`.

    Square ``(x, y)`` of the lattice covers ``[stride * x, stride * (x + 1))`` of the slide's pixels, counted from
    the slide's corner, and so on down; it is a multiple of the blocks of the tissue test. The classifier is
    given the `context_px` around its middle, as it is or resized to the network's input. `context_px` and `mpp`
    are the model's own where they are not stated. Where a context reaches beyond the slide, `edge` says what it
    holds: ``white``, the default, or, as in code that clamps the corner of a context at 0, the pixels of a context
    that is shifted to begin at the slide's left or upper edge (``clamp``; beyond the other edges it is white).
    """

    stride_px: Annotated[int, Field(ge=8, le=2048, multiple_of=8)]
    context_px: Annotated[int, Field(ge=8, le=4096)] | None = None
    mpp: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    edge: Edge = "white"


class ProbabilityMapFields(SpecPart):
    """A heatmap of the probability of a class."""

    name: Name
    title: str
    class_name: Annotated[str, Field(alias="class")]


class PatchesSpec(PipelineSpec):
    """A pipeline file of this kind.

    `outlines` names the classes whose squares are outlined and counted where they reach the `threshold`; default:
    those of the heatmaps.
    """

    kind: Literal["patches"]
    classifier: Name
    patch: PatchFields
    threshold: Probability = 0.5
    outlines: tuple[str, ...] = ()
    heatmaps: Annotated[tuple[ProbabilityMapFields, ...], Field(min_length=1)]

    @property
    def model_names(self) -> frozenset[str]:
        return frozenset({self.classifier})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityMap:
    """A heatmap: of the probability of class number `class_index` of the classifier."""

    name: str
    title: str
    class_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchesPipeline(Pipeline):
    """A classifier over a lattice.

    `outlined` holds the classes that are outlined and counted, by index in the classifier; `classes` has these
    alone, in this order.
    """

    kind: ClassVar[str] = "patches"

    classifier: ClassifierSpec
    head: ProbabilityHead
    stride_px: int
    context_px: int
    mpp: float
    edge: Edge
    threshold: float
    outlined: tuple[int, ...]
    heatmaps: tuple[ProbabilityMap, ...]

    @property
    def models(self) -> tuple[SegmenterSpec | ClassifierSpec, ...]:
        return (self.classifier,)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The probability from which a square is of a class."""
        return {self.classifier.name: self.threshold}

    @property
    def heatmap_titles(self) -> tuple[HeatmapTitle, ...]:
        return tuple(HeatmapTitle(name=item.name, title=item.title, kind="probability") for item in self.heatmaps)

    def mpp_of(self, model: SegmenterSpec | ClassifierSpec) -> float:  # noqa: ARG002 - there is one
        return self.mpp


def assemble(spec: PatchesSpec, models: Mapping[str, ModelPackage]) -> PatchesPipeline:
    """The pipeline that `spec` describes; raises PipelineSpecError when it names what its model does not have."""
    classifier = require_classifier(spec.name, spec.classifier, models)
    head: Any = find(classifier.head)
    if not isinstance(head, ProbabilityHead):
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: the head {classifier.head!r} of {classifier.name!r} gives no probabilities: "
            "name a classifier whose head is softmax or sigmoid."
        )
    shown = tuple(item.class_name for item in spec.heatmaps)
    outlined = tuple(dict.fromkeys(spec.outlines or shown))
    require_classes(spec.name, (*shown, *outlined), classifier)
    context_px = spec.patch.context_px or classifier.crop.size_px
    if spec.patch.stride_px > context_px:
        raise PipelineSpecError(
            f"Pipeline {spec.name!r}: stride_px is {spec.patch.stride_px} and context_px {context_px}, so the "
            "classifier would not see all of a square: use a smaller stride or a larger context."
        )
    index = classifier.class_names.index
    return PatchesPipeline(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        stain=spec.stain,
        stained_with=spec.stained_with,
        classes=ClassTree(tuple(own_classes(classifier).ends[index(name)] for name in outlined)),
        classifier=classifier,
        head=head,
        stride_px=spec.patch.stride_px,
        context_px=context_px,
        mpp=spec.patch.mpp or classifier.mpp,
        edge=spec.patch.edge,
        threshold=spec.threshold,
        outlined=tuple(index(name) for name in outlined),
        heatmaps=tuple(
            ProbabilityMap(name=item.name, title=item.title, class_index=index(item.class_name))
            for item in spec.heatmaps
        ),
    )


FILE = FileKind("patches", PatchesSpec, assemble)
