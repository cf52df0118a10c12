"""The specification of a model, as read from ``model.yaml``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from slidecascade.heads.head import (
    ClassifierOptions,
    HeadOptions,
    MaskHead,
    ObjectHead,
    ProbabilityHead,
    SegmenterOptions,
)
from slidecascade.heads.table import find, require_outputs
from slidecascade.models.tensors import InputSpec, OutputSpec, Signature

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ClassName = Annotated[str, Field(pattern=r"^[^:\n\r]{1,60}$")]
Channel = Annotated[int, Field(ge=0, le=255)]
MASK_CHANNELS: Final = ("foreground", "edges")
"""Of a mask as a translator takes it."""


class _SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelClass(_SpecPart):
    """A class and its RGB colour. Names contain no colon, which separates the levels of a cascade."""

    name: ClassName
    color: tuple[Channel, Channel, Channel]


class CropSpec(_SpecPart):
    """The square that is looked at, in pixels at the model's mpp, before it is resized to the input size."""

    size_px: Annotated[int, Field(ge=4, le=2048)]


class TrainingData(_SpecPart):
    name: str
    licence: str
    split: str = ""


class Int8Spec(_SpecPart):
    """The same network in int8, in a graph beside the float32 one."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    accuracy: dict[str, float] = Field(default_factory=dict)


class _AnyModelSpec(_SpecPart):
    """What all models state.

    `receptive_field_px` is the side of the centred square of input pixels on which an output may depend: an upper
    bound from the graph, "unbounded" for a network with an operator over the whole image, None if it is not known.
    """

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
    receptive_field_px: Annotated[int, Field(ge=1)] | Literal["unbounded"] | None = None
    int8: Int8Spec | None = None

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[ModelClass, ...]) -> tuple[ModelClass, ...]:
        if len({item.name for item in classes}) != len(classes):
            raise ValueError("class names must differ")
        return classes

    @model_validator(mode="after")
    def _tensors_agree(self) -> Self:
        Signature(self.inputs, self.outputs)
        require_outputs(self.head, self.class_names, self.outputs, self._head_options)
        return self

    @property
    def _head_options(self) -> HeadOptions:
        raise NotImplementedError

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


class SegmenterSpec(_AnyModelSpec):
    """A network whose maps a head turns into objects or into a mask.

    `halo_px` is read around each tile. `object_diameter_px` is the mean diameter of the objects the network was
    trained to find, for which `mpp` was chosen.
    """

    task: Literal["segment"]
    halo_px: Annotated[int, Field(ge=0, le=1024)]
    object_diameter_px: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] | None = None
    options: SerializeAsAny[SegmenterOptions] = Field(default_factory=SegmenterOptions, validate_default=True)

    @property
    def _head_options(self) -> HeadOptions:
        return self.options

    @field_validator("head")
    @classmethod
    def _head_segments(cls, name: str) -> str:
        return _require_sort(name, ObjectHead, MaskHead)

    @field_validator("options", mode="before")
    @classmethod
    def _options_are_the_heads(cls, options: Any, info: ValidationInfo) -> Any:
        return _read_options(options, info)

    @field_validator("inputs")
    @classmethod
    def _take_tiles_of_any_size(cls, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
        image = inputs[0]
        if not {"H", "W"} <= set(image.layout) or image.height_px or image.width_px:
            raise ValueError(f"a segmenter's input {image.name!r} takes any height and width: name them")
        return inputs


class ClassifierSpec(_AnyModelSpec):
    """A network that classifies one crop per cell, or one patch of a slide, and returns a probability per class.

    The most probable class is assigned, whether or not the head's probabilities sum to one.
    """

    task: Literal["classify"]
    crop: CropSpec
    options: SerializeAsAny[ClassifierOptions] = Field(default_factory=ClassifierOptions, validate_default=True)

    @property
    def _head_options(self) -> HeadOptions:
        return self.options

    @field_validator("head")
    @classmethod
    def _head_classifies(cls, name: str) -> str:
        return _require_sort(name, ProbabilityHead)

    @field_validator("options", mode="before")
    @classmethod
    def _options_are_the_heads(cls, options: Any, info: ValidationInfo) -> Any:
        return _read_options(options, info)

    @field_validator("inputs")
    @classmethod
    def _take_crops_of_one_size(cls, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
        _size_px(inputs[0])
        return inputs

    @property
    def crop_shape_px(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return _size_px(self.input)


class TranslatorSpec(_AnyModelSpec):
    """A network that draws an image for a mask of objects.

    It takes the foreground, or foreground and edges of objects, as 0 and 1, and returns grey or RGB of 0 to 1.
    """

    task: Literal["translate"]
    head: Literal["image"] = "image"
    classes: tuple[ModelClass, ...] = ()

    @model_validator(mode="after")
    def _tensors_agree(self) -> Self:
        Signature(self.inputs, self.outputs)
        mask, image = self.inputs[0], self.outputs[0]
        if len(self.inputs) > 1 or (mask.dtype, mask.layout) != ("float32", "NCHW") or len(mask.free) != 2:
            raise ValueError("a translator takes one float32 NCHW mask of free height and width: correct `inputs`")
        if mask.channels not in (MASK_CHANNELS[:1], MASK_CHANNELS):
            raise ValueError(
                f"a translator's mask has the channels {', '.join(MASK_CHANNELS)}, or the first alone"
            )
        if len(self.outputs) > 1 or (image.dtype, image.layout) != ("float32", "NCHW") or image.free != mask.free:
            raise ValueError("a translator returns one float32 NCHW image of the mask's size: correct `outputs`")
        if image.channel_count not in (1, 3) or image.stride != 1:
            raise ValueError("a translator's image has 1 or 3 channels and the stride 1: correct `outputs`")
        return self


def _require_sort(name: str, *sorts: Any) -> str:
    """`name`, when it is that of a head of one of `sorts`; raises ValueError otherwise."""
    if not isinstance(find(name), sorts):
        raise ValueError(f"the {name} head is not one for this task: correct `task` or `head`")
    return name


def _read_options(options: Any, info: ValidationInfo) -> Any:
    """`options` as the type that the head names; left alone where the head itself is wrong."""
    if "head" not in info.data:
        return options
    kind: type[HeadOptions] = find(info.data["head"]).options
    if isinstance(options, HeadOptions):
        options = options.model_dump(exclude_unset=True)
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "options"
        raise ValueError(
            f"{where}: {first['msg']}; the {info.data['head']} head takes {', '.join(kind.model_fields)}"
        ) from error


def _size_px(image: InputSpec) -> tuple[int, int]:
    """The one height and width of `image`; raises ValueError when it takes others."""
    if image.height_px is None or image.width_px is None:
        raise ValueError(f"a classifier's input {image.name!r} takes one size: state height and width")
    return image.height_px, image.width_px


AnySpec = SegmenterSpec | ClassifierSpec | TranslatorSpec
ModelSpec = Annotated[AnySpec, Field(discriminator="task")]
"""``model.yaml``."""
