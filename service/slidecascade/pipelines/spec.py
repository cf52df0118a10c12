"""What the files of all kinds of pipeline say, and what every pipeline is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from slidecascade.errors import PipelineSpecError
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import AnySpec, ClassifierSpec, Name, SegmenterSpec
from slidecascade.models.tensors import PERCENTILES
from slidecascade.pipelines.classes import CellClass, ClassTree
from slidecascade.slides.channels import RGB
from slidecascade.wire.fields import StainMethod

MAX_INPUT_CHANNELS = 4

StainedWith = Literal["any", "H&E"]

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class SpecPart(BaseModel):
    """A part of a pipeline file; what it does not know it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PipelineSpec(SpecPart, ABC):
    """A pipeline file. Each kind derives its own, with `kind` as a literal."""

    name: Name
    kind: str
    title: str
    description: str
    stain: StainMethod = "none"
    stained_with: StainedWith = "any"

    @property
    @abstractmethod
    def model_names(self) -> frozenset[str]:
        """The models it needs."""

    def served_with(self, models: Container[str]) -> Self:
        """Without the companions that are not in `models`."""
        del models
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapTitle:
    """A heatmap as it is listed: what it is called and what sort of value it shows."""

    name: str
    title: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline(ABC):
    """A pipeline whose models exist and fit together.

    Attributes:
        classes: every class that what it finds can end in.
        stained_with: the stain it is meant for; slides that look otherwise are analysed with a warning.
        stain: how stains are normalised, unless a request asks otherwise.
    """

    kind: ClassVar[str]

    name: str
    title: str
    description: str
    classes: ClassTree
    stain: StainMethod = "none"
    stained_with: StainedWith = "any"

    @property
    @abstractmethod
    def models(self) -> tuple[SegmenterSpec | ClassifierSpec, ...]:
        """In the order in which they run."""

    @property
    def companions(self) -> tuple[SegmenterSpec, ...]:
        """Those of `models` that run beside the others, and on which what is found does not depend."""
        return ()

    @property
    @abstractmethod
    def thresholds(self) -> Mapping[str, float]:
        """What holds unless a request asks otherwise, by model name."""

    @property
    @abstractmethod
    def heatmap_titles(self) -> tuple[HeatmapTitle, ...]:
        """The heatmaps there are, the default first."""

    @property
    def channels(self) -> tuple[str, ...]:
        """What its networks take in place of the colours of a slide, by meaning; empty: the colours alone."""
        return ()

    @property
    def count_channels(self) -> tuple[str, ...]:
        """Those of `channels` that are measured in counts of the camera, not scaled for a network."""
        return ()

    @property
    def percentiles(self) -> tuple[float, float]:
        """Of a slide's intensities, by which its `channels` are scaled."""
        return PERCENTILES

    @property
    def object_diameter_um(self) -> float | None:
        """The usual diameter of what it finds, where that has one and its network states it."""
        return None

    def mpp_of(self, model: SegmenterSpec | ClassifierSpec) -> float:
        """Micrometres per pixel at which `model` is given the slide."""
        return model.mpp


P_co = TypeVar("P_co", bound=Pipeline, covariant=True)


@dataclass(frozen=True, slots=True)
class FileKind(Generic[P_co]):
    """A kind as pipeline files know it: its name, the type that reads them, and how a pipeline is made of one.

    `assemble` raises PipelineSpecError when models do not fit together.
    """

    name: str
    spec: type[PipelineSpec]
    assemble: Callable[[Any, Mapping[str, ModelPackage]], P_co]


def require_segmenter(pipeline: str, name: str, models: Mapping[str, ModelPackage]) -> SegmenterSpec:
    """The segmenter called `name`, which takes RGB tiles.

    Raises:
        PipelineSpecError: the model is of another task, or takes something else.
    """
    model = models[name].spec
    require_rgb(pipeline, model)
    if not isinstance(model, SegmenterSpec):
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: {model.name!r} is not a segmenter: correct the pipeline file."
        )
    return model


def require_classifier(pipeline: str, name: str, models: Mapping[str, ModelPackage]) -> ClassifierSpec:
    """The classifier called `name`, which takes RGB images; raises as `require_segmenter` does."""
    model = models[name].spec
    require_rgb(pipeline, model)
    if not isinstance(model, ClassifierSpec):
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: {model.name!r} is not a classifier: correct the pipeline file."
        )
    return model


def require_classes(pipeline: str, wanted: tuple[str, ...], model: SegmenterSpec | ClassifierSpec) -> None:
    """Raises PipelineSpecError when `model` does not have all classes `wanted`."""
    for name in wanted:
        if name not in model.class_names:
            raise PipelineSpecError(
                f"Pipeline {pipeline!r} names the class {name!r}; {model.name!r} has "
                f"{', '.join(model.class_names)}."
            )


def own_classes(model: SegmenterSpec | ClassifierSpec) -> ClassTree:
    """The classes of one model, without any below them."""
    return ClassTree(tuple(CellClass((item.name,), item.color) for item in model.classes))


def require_image(pipeline: str, name: str, models: Mapping[str, ModelPackage]) -> SegmenterSpec:
    """The segmenter called `name`, which takes one image of at most `MAX_INPUT_CHANNELS` channels, scaled to the
    whole range of an unsigned type or to 0 to 1.

    Raises:
        PipelineSpecError: the model is of another task, or takes something else.
    """
    model = models[name].spec
    if not isinstance(model, SegmenterSpec):
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: {model.name!r} is not a segmenter: correct the pipeline file."
        )
    if model.input.channels == RGB:
        require_rgb(pipeline, model)
        return model
    image = model.input
    if (
        len(model.inputs) > 1
        or image.dtype not in ("uint8", "uint16", "float16", "float32")
        or image.layout not in ("NHWC", "NCHW")
        or len(image.channels) > MAX_INPUT_CHANNELS
    ):
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: model {model.name!r} takes {len(model.inputs)} inputs, {image.name!r} is "
            f"{image.dtype} {image.layout} of {len(image.channels)} channels; pipelines give one NHWC or NCHW "
            f"image of uint8, uint16, float16 or float32 with at most {MAX_INPUT_CHANNELS} channels: convert it."
        )
    return model


def require_rgb(pipeline: str, model: AnySpec) -> None:
    """Raises PipelineSpecError for a model that takes anything but one uint8 RGB image, as tiles and crops are."""
    image = model.input
    is_rgb = (image.dtype, image.layout, image.channels) == ("uint8", "NHWC", ("red", "green", "blue"))
    if len(model.inputs) > 1 or not is_rgb:
        taken = ", ".join(
            f"{tensor.name} ({tensor.dtype} {tensor.layout} {' '.join(tensor.channels)})"
            for tensor in model.inputs
        )
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: model {model.name!r} takes {taken}, but pipelines give uint8 NHWC red green "
            "blue: convert it with such an input, or run it by /v2."
        )
