"""The specification of a model, as read from ``model.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slidecascade.cells.heads.table import require_outputs
from slidecascade.models.tensors import InputSpec, OutputSpec, Signature

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ClassName = Annotated[str, Field(pattern=r"^[^:\n\r]{1,60}$")]
Channel = Annotated[int, Field(ge=0, le=255)]
SegmenterHead = Literal["unet", "semantic"]


class _SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelClass(_SpecPart):
    """A class and its RGB colour. Names contain no colon, which separates the levels of a cascade."""

    name: ClassName
    color: tuple[Channel, Channel, Channel]


class CropSpec(_SpecPart):
    """The square cut around a cell, in pixels at the model's mpp, before it is resized to the input size."""

    size_px: Annotated[int, Field(ge=4, le=2048)]


class TrainingData(_SpecPart):
    name: str
    licence: str
    split: str = ""


class _AnyModelSpec(_SpecPart):
    name: Name
    version: Annotated[int, Field(ge=1)]
    task: str
    head: str
    mpp: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)]
    classes: Annotated[tuple[ModelClass, ...], Field(min_length=1)]
    licence: str
    training_data: tuple[TrainingData, ...]
    accuracy: dict[str, float] = Field(default_factory=dict)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[ModelClass, ...]) -> tuple[ModelClass, ...]:
        if len({item.name for item in classes}) != len(classes):
            raise ValueError("class names must differ")
        return classes

    @model_validator(mode="after")
    def _tensors_agree(self) -> Self:
        Signature(self.inputs, self.outputs)
        require_outputs(self.head, self.class_names, self.outputs)
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.classes)

    @property
    def signature(self) -> Signature:
        """All tensors of the network."""
        return Signature(self.inputs, self.outputs)

    @property
    def input(self) -> InputSpec:
        """The image input, which is the first."""
        return self.inputs[0]


class SegmenterOptions(_SpecPart):
    """Defaults of the heads of segmenters; `seed` and `prominence` are of the `unet` head only."""

    foreground: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_area_um2: Annotated[float, Field(ge=0)] = 8.0
    prominence: Annotated[float, Field(gt=0, le=1)] = 1.0


class SegmenterSpec(_AnyModelSpec):
    """A network whose maps a head turns into cells. `halo_px` is read around each tile."""

    task: Literal["segment"]
    head: SegmenterHead
    halo_px: Annotated[int, Field(ge=0, le=1024)]
    options: SegmenterOptions = SegmenterOptions()

    @field_validator("inputs")
    @classmethod
    def _take_tiles_of_any_size(cls, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
        image = inputs[0]
        if not {"H", "W"} <= set(image.layout) or image.height_px or image.width_px:
            raise ValueError(f"a segmenter's input {image.name!r} takes any height and width: name them")
        return inputs

    @model_validator(mode="after")
    def _options_are_the_heads(self) -> Self:
        if self.head != "unet" and self.options.model_fields_set & {"seed", "prominence"}:
            raise ValueError(f"the {self.head} head has no seeds: leave options.seed and options.prominence out")
        return self


class SoftmaxOptions(_SpecPart):
    """Defaults of the `softmax` head: `floor` is the minimum probability for a class to be assigned."""

    floor: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0


class ClassifierSpec(_AnyModelSpec):
    """A network that classifies one crop per cell and returns a probability per class.

    The probabilities of a `softmax` head sum to one, those of a `sigmoid` head are independent; the most probable
    class is assigned in both cases.
    """

    task: Literal["classify"]
    head: Literal["softmax", "sigmoid"]
    crop: CropSpec
    options: SoftmaxOptions = SoftmaxOptions()

    @field_validator("inputs")
    @classmethod
    def _take_crops_of_one_size(cls, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
        _size_px(inputs[0])
        return inputs

    @property
    def crop_shape_px(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return _size_px(self.input)


def _size_px(image: InputSpec) -> tuple[int, int]:
    """The one height and width of `image`; raises ValueError when it takes others."""
    if image.height_px is None or image.width_px is None:
        raise ValueError(f"a classifier's input {image.name!r} takes one size: state height and width")
    return image.height_px, image.width_px


ModelSpec = Annotated[SegmenterSpec | ClassifierSpec, Field(discriminator="task")]
"""``model.yaml``."""
