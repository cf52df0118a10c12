"""What ``model.yaml`` says of a model: the statement that every check and description of it derives from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ClassName = Annotated[str, Field(pattern=r"^[^:\n\r]{1,60}$")]
Channel = Annotated[int, Field(ge=0, le=255)]
SegmenterHead = Literal["unet", "semantic"]

MAPS: Final[Mapping[SegmenterHead, int]] = {"unet": 2, "semantic": 1}
"""Maps that a network of each head returns; the first is the foreground."""


class _SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelClass(_SpecPart):
    """A class and its RGB colour. A name holds no colon: that joins the levels of a cascade."""

    name: ClassName
    color: tuple[Channel, Channel, Channel]


class AnySize(_SpecPart):
    """A fully convolutional network's input: any height and width that are multiples of its stride."""

    height_px: None = None
    width_px: None = None
    multiple_of: Annotated[int, Field(ge=1, le=256)]


class FixedSize(_SpecPart):
    """A network's input of one height and width in pixels."""

    height_px: Annotated[int, Field(ge=1, le=4096)]
    width_px: Annotated[int, Field(ge=1, le=4096)]
    multiple_of: Literal[1] = 1


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
    mpp: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
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
    input: AnySize
    halo_px: Annotated[int, Field(ge=0, le=1024)]
    options: SegmenterOptions = SegmenterOptions()

    @model_validator(mode="after")
    def _options_are_the_heads(self) -> Self:
        if self.head != "unet" and self.options.model_fields_set & {"seed", "prominence"}:
            raise ValueError(f"the {self.head} head has no seeds: leave options.seed and options.prominence out")
        return self


class SoftmaxOptions(_SpecPart):
    """Defaults of the `softmax` head: the least probability a class must reach to be a cell's class."""

    floor: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0


class ClassifierSpec(_AnyModelSpec):
    """A network that looks at one crop per cell and returns a probability per class.

    The probabilities of a `softmax` head sum to one, those of a `sigmoid` head are each their own; the most
    probable class wins either way.
    """

    task: Literal["classify"]
    head: Literal["softmax", "sigmoid"]
    input: FixedSize
    crop: CropSpec
    options: SoftmaxOptions = SoftmaxOptions()


ModelSpec = Annotated[SegmenterSpec | ClassifierSpec, Field(discriminator="task")]
"""``model.yaml``. Every served graph takes ``image``, uint8 RGB ``(N, H, W, 3)``."""
