"""The input and output tensors of a network, as stated in ``model.yaml`` and validated against its graph.

Every check and description of a network's tensors derives from a `Signature`. Output shapes follow from input
shapes, so that output memory can be allocated before a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from slidecascade.errors import ModelFailedError

Tensors = Mapping[str, NDArray[Any]]
"""Arrays by the names of a network's inputs or outputs."""

Shape = tuple[int, ...]
ElementType = Literal[
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
]
"""NumPy's name of a tensor's dtype."""

BATCH: Final = "batch"
"""The name of the first dimension of every tensor: the number of images."""

BOX: Final = "box"
"""The meaning of an output of boxes: left, top, right and bottom along its last axis, in pixels of the input."""

PERCENTILES: Final = (1.0, 99.8)
"""Of a slide's intensities, which become 0 and the full scale of a channel unless a network states others."""


def _tenths(percent: float) -> float:
    if abs(10 * percent - round(10 * percent)) > 1e-6:
        raise ValueError("percentiles are stated in steps of 0.1")
    return percent


TensorName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}$")]
ChannelName = Annotated[str, Field(pattern=r"^[^:\n\r]{1,60}$")]
Dimension = (
    Annotated[int, Field(ge=1, le=1 << 20, strict=True)]
    | Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", strict=True)]
)
Bound = Annotated[float, Field(allow_inf_nan=False)] | None

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), AfterValidator(_tenths)]

_DATATYPES: Final = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}
_ONNX_TYPES: Final = {"float32": "float", "float64": "double"}


class _TensorPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Tensor(_TensorPart):
    name: TensorName
    dtype: ElementType
    layout: Annotated[str, Field(pattern=r"^N[CHWK]{0,4}$")]
    shape: tuple[Dimension, ...]
    channels: tuple[ChannelName, ...] = ()
    range: tuple[Bound, Bound] = (None, None)

    @model_validator(mode="after")
    def _axes_have_sizes(self) -> Self:
        if len(set(self.layout)) != len(self.layout):
            raise ValueError(f"the layout {self.layout!r} names an axis twice")
        if len(self.shape) != len(self.layout):
            raise ValueError(
                f"the layout {self.layout!r} has {len(self.layout)} axes, the shape {len(self.shape)}"
            )
        if self.shape[0] != BATCH:
            raise ValueError(f"the first dimension is {self.shape[0]!r}: it must be {BATCH!r}")
        for axis, size in zip(self.layout[1:], self.shape[1:], strict=True):
            if isinstance(size, str) and (axis not in "HW" or size == BATCH):
                raise ValueError(f"the size of axis {axis} must be a number: only height and width may be free")
        if len(set(self.free)) != len(self.free):
            raise ValueError("the names of its free dimensions must be unique")
        return self

    @model_validator(mode="after")
    def _channels_are_named(self) -> Self:
        if self.channels and len(self.channels) != self.channel_count:
            raise ValueError(f"{len(self.channels)} channels are named, its shape has {self.channel_count}")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("the names of its channels must be unique")
        low, high = self.range
        if low is not None and high is not None and low >= high:
            raise ValueError(f"the maximum of its range, {high:g}, is not above the minimum {low:g}")
        return self

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the free dimensions, without the batch."""
        return tuple(size for size in self.shape[1:] if isinstance(size, str))

    @property
    def channel_count(self) -> int:
        """The size of axis C; 0 without such an axis."""
        size = self._size_of("C")
        return size if isinstance(size, int) else 0

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    @property
    def datatype(self) -> str:
        """The datatype's name in the Open Inference Protocol."""
        return _DATATYPES.get(self.dtype, self.dtype.upper())

    @property
    def onnx_type(self) -> str:
        """The tensor type's name in ONNX Runtime."""
        return f"tensor({_ONNX_TYPES.get(self.dtype, self.dtype)})"

    @property
    def open_shape(self) -> Shape:
        """The shape with -1 for free dimensions."""
        return tuple(-1 if isinstance(size, str) else size for size in self.shape)

    def _size_of(self, axis: str) -> int | str | None:
        return self.shape[self.layout.index(axis)] if axis in self.layout else None

    def _fixed(self, axis: str) -> int | None:
        size = self._size_of(axis)
        return size if isinstance(size, int) else None


class InputSpec(_Tensor):
    """A tensor that a network takes.

    Attributes:
        name: as in the graph.
        dtype: NumPy's name of the dtype.
        layout: one letter per dimension: N batch, C channels, H height, W width, K any other of fixed size.
        shape: per dimension a size, or a name for a free dimension; the first is ``batch``. A name has the same
            size in all tensors of a network.
        channels: the meaning of each channel, such as ``red``, ``green``, ``blue`` or ``nuclear``, ``membrane``.
        range: minimum and maximum value; null: those of the dtype.
        multiple_of: free heights and widths must be multiples of this.
        percentiles: of the slide's intensities, which become the minimum and the maximum of channels by meaning;
            in steps of 0.1.
    """

    channels: Annotated[tuple[ChannelName, ...], Field(min_length=1)]
    multiple_of: Annotated[int, Field(ge=1, le=256)] = 1
    percentiles: tuple[Percent, Percent] = PERCENTILES

    @model_validator(mode="after")
    def _percentiles_rise(self) -> Self:
        if not self.percentiles[0] < self.percentiles[1]:
            raise ValueError(f"the percentiles {self.percentiles} must rise, as in [1, 99.8]")
        return self

    @model_validator(mode="after")
    def _multiples_are_of_free_sizes(self) -> Self:
        if self.multiple_of > 1 and not self.free:
            raise ValueError(f"multiple_of is {self.multiple_of}, but no size of {self.name!r} is free")
        return self

    @property
    def height_px(self) -> int | None:
        """The fixed height; None if it is free."""
        return self._fixed("H")

    @property
    def width_px(self) -> int | None:
        """The fixed width; None if it is free."""
        return self._fixed("W")

    def pixels(self, shape: Shape) -> int:
        """Height times width of an array of `shape`; 1 for an input without these axes."""
        return math.prod(size for axis, size in zip(self.layout, shape, strict=True) if axis in "HW")


class OutputSpec(_Tensor):
    """A tensor that a network returns; its free dimensions are among those of the inputs.

    Attributes:
        name, dtype, layout, shape, channels, range: as of an input. Channels need no names.
        stride: input pixels per output pixel along free heights and widths.
        meaning: the quantity, such as ``probability``, ``logit``, ``distance``, ``flow``.
    """

    stride: Annotated[int, Field(ge=1, le=256)] = 1
    meaning: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


@dataclass(frozen=True, slots=True)
class Signature:
    """All input and output tensors of a network, in the order of ``model.yaml``.

    Raises:
        ValueError: when the tensors are inconsistent.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]

    def __post_init__(self) -> None:
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            if not tensors:
                raise ValueError(f"a network needs at least one {kind}")
            if len({tensor.name for tensor in tensors}) != len(tensors):
                raise ValueError(f"the names of {kind}s must be unique")
        multiples = self._multiples
        for output in self.outputs:
            for name in output.free:
                if name not in multiples:
                    raise ValueError(
                        f"output {output.name!r} has a free dimension {name!r} that no input has: state its size"
                    )
                if multiples[name] % output.stride:
                    raise ValueError(
                        f"the inputs' multiple_of {multiples[name]} is not a multiple of the stride "
                        f"{output.stride} of output {output.name!r}"
                    )

    @property
    def _multiples(self) -> Mapping[str, int]:
        """The required divisor of each free dimension, by name."""
        multiples: dict[str, int] = {}
        for tensor in self.inputs:
            for name in tensor.free:
                multiples[name] = math.lcm(multiples.get(name, 1), tensor.multiple_of)
        return multiples

    @property
    def has_fixed_sizes(self) -> bool:
        """Whether the batch is the only free dimension."""
        return not self._multiples

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.outputs)

    def input_shapes(self, *, batch: int, side_px: int) -> Mapping[str, Shape]:
        """Valid input shapes: `batch` images, free sides of the smallest multiple of at least `side_px`."""
        sizes = {name: -(-side_px // multiple) * multiple for name, multiple in self._multiples.items()}
        sizes[BATCH] = batch
        return {tensor.name: _bound(tensor, sizes) for tensor in self.inputs}

    def output_shapes(self, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """The shapes of the outputs for inputs of `shapes`.

        Raises:
            ValueError: when the network does not accept `shapes`; the message gives the reason.
        """
        sizes = self._sizes(shapes)
        return {output.name: _bound(output, sizes, stride=output.stride) for output in self.outputs}

    def pixels(self, shapes: Mapping[str, Shape]) -> int:
        """Height times width of one image of the largest input."""
        return max(tensor.pixels(shapes[tensor.name]) for tensor in self.inputs)

    def new_outputs(self, model: str, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Uninitialised arrays for all outputs of `model` for `inputs`.

        Raises:
            ModelFailedError: when the network does not accept `inputs`.
        """
        shapes = self.require_inputs(model, inputs)
        return {output.name: np.empty(shapes[output.name], output.numpy_dtype) for output in self.outputs}

    def require_inputs(self, model: str, inputs: Tensors) -> Mapping[str, Shape]:
        """Validate `inputs` of `model`; the shapes of its outputs.

        Raises:
            ModelFailedError: when names, dtypes or shapes differ from those stated.
        """
        for tensor in self.inputs:
            if tensor.name in inputs and inputs[tensor.name].dtype != tensor.numpy_dtype:
                raise ModelFailedError(
                    f"Model {model!r} takes {tensor.name!r} as {tensor.dtype}, not as {inputs[tensor.name].dtype}."
                )
        try:
            return self.output_shapes({name: array.shape for name, array in inputs.items()})
        except ValueError as error:
            raise ModelFailedError(f"Model {model!r} cannot be run on these inputs: {error}.") from error

    def mismatch(self, outputs: Tensors, shapes: Mapping[str, Shape]) -> str | None:
        """A description of how `outputs` differ from the signature; None when they match.

        Args:
            shapes: the expected shapes, from `output_shapes`.
        """
        if outputs.keys() != shapes.keys():
            return f"returns {', '.join(outputs) or 'nothing'}, its model.yaml states {', '.join(shapes)}"
        for output in self.outputs:
            found, due = outputs[output.name], shapes[output.name]
            if (found.dtype, found.shape) != (output.numpy_dtype, due):
                return (
                    f"returns {output.name!r} as {found.dtype} {found.shape}, its model.yaml states "
                    f"{output.dtype} {due}"
                )
        return None

    def _sizes(self, shapes: Mapping[str, Shape]) -> Mapping[str, int]:
        """The size of every free dimension, and of the batch."""
        names = [tensor.name for tensor in self.inputs]
        if shapes.keys() != set(names):
            raise ValueError(f"it takes the inputs {', '.join(names)}, got {', '.join(shapes) or 'none'}")
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            found = shapes[tensor.name]
            if len(found) != len(tensor.shape) or not _fits(tensor, found, sizes):
                raise ValueError(
                    f"{tensor.name!r} has shape {found}, expected {_text(tensor.shape)}{_sizes_text(sizes)}"
                )
        for name, multiple in self._multiples.items():
            if sizes[name] < 1 or sizes[name] % multiple:
                raise ValueError(f"the {name} is {sizes[name]}, it must be a multiple of {multiple}")
        return sizes


def rgb_image(
    *, height_px: int | None = None, width_px: int | None = None, multiple_of: int = 1, name: str = "image"
) -> InputSpec:
    """An input of uint8 RGB images ``(N, H, W, 3)``; a height or width of None is free."""
    return InputSpec(
        name=name,
        dtype="uint8",
        layout="NHWC",
        shape=(BATCH, height_px or "height", width_px or "width", 3),
        channels=("red", "green", "blue"),
        range=(0, 255),
        multiple_of=multiple_of,
    )


def _fits(tensor: InputSpec, found: Shape, sizes: dict[str, int]) -> bool:
    """Whether an array of shape `found` matches `tensor`; adds its free dimensions to `sizes`."""
    return all(
        size == (sizes.setdefault(stated, size) if isinstance(stated, str) else stated)
        for stated, size in zip(tensor.shape, found, strict=True)
    )


def _bound(tensor: InputSpec | OutputSpec, sizes: Mapping[str, int], *, stride: int = 1) -> Shape:
    """The shape of `tensor` with the `sizes` of free dimensions."""
    return tuple(
        size if isinstance(size, int) else sizes[size] if size == BATCH else sizes[size] // stride
        for size in tensor.shape
    )


def _text(shape: tuple[Dimension, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return f" with {', '.join(f'{name} {size}' for name, size in sizes.items())}" if sizes else ""
