"""The receptive field of a network, computed from its ONNX graph.

For each tensor, the first and the last input pixel on which each of its rows and columns depends are computed for
an image of `SIDE_PX`; kernels, strides, dilations and paddings of the operators determine them (Araujo, Norris and
Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, doi 10.23915/distill.00021). The
result is an upper bound: weights may be zero, and pixels far from the centre usually have little influence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Unbounded = Literal["unbounded"]

SIDE_PX = 4096
"""Side of the image for which fields are computed; all usual strides divide it."""

MAX_REACH_PX = SIDE_PX // 4
"""A larger field is as good as the whole image: no halo is that wide."""

_POINTWISE = frozenset({
    "Abs", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul",
    "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where", "Xor",
})  # fmt: skip
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_GLOBAL = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization"})
_REDUCTIONS = frozenset({
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
})  # fmt: skip
_ALONG_AXIS = frozenset({"Concat", "Softmax", "LogSoftmax", "Hardmax"})
_DEFAULT_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1}


class _UnknownFieldError(Exception):
    """An operator whose effect on the field is not computed here."""


class _UnboundedFieldError(Exception):
    """An output depends on all pixels."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Element ``j`` of an axis depends on input pixels ``low[j]`` to ``high[j]``; both ``(n,)`` int64."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @classmethod
    def of_image(cls) -> _Axis:
        return cls(np.arange(SIDE_PX), np.arange(SIDE_PX))

    def __len__(self) -> int:
        return len(self.low)

    def taken(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> _Axis:
        """An element ``j`` of the result depends on elements ``first[j]`` to ``last[j]`` of this axis."""
        end = len(self) - 1
        return _Axis(self.low[np.clip(first, 0, end)], self.high[np.clip(last, 0, end)])

    def joined(self, other: _Axis) -> _Axis:
        if len(self) != len(other):
            raise _UnknownFieldError("tensors of different sizes are combined")
        return _Axis(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def reach_px(self, multiple_of: int) -> int:
        """How far from a side of a read box, at a multiple of `multiple_of`, elements depend on what is beyond."""
        stride = SIDE_PX // len(self)
        start = np.arange(len(self)) * stride
        left = (self.low // multiple_of + 1) * multiple_of
        right = self.high // multiple_of * multiple_of
        from_left = np.where(left <= start, start + stride - left, 0)
        from_right = np.where(right >= start + stride, right - start, 0)
        middle = slice(len(self) // 3, max(1, 2 * len(self) // 3))  # away from the image's own sides
        return int(np.maximum(from_left, from_right)[middle].max(initial=0))


@dataclass(frozen=True, slots=True)
class _Field:
    """A tensor's dependence on pixels; `dims` are its height and width dimensions."""

    dims: tuple[int, int]
    axes: tuple[_Axis, _Axis]

    def mapped(self, change: Callable[[_Axis], _Axis]) -> _Field:
        return _Field(self.dims, (change(self.axes[0]), change(self.axes[1])))


def receptive_field_px(
    model: onnx.ModelProto, image: str, *, layout: str, multiple_of: int
) -> int | Unbounded | None:
    """The side of the centred square of input pixels on which an output element of `model` may depend.

    Half of it is the distance from the sides of a read box beyond which outputs do not depend on where the box
    ends, for boxes with sides at multiples of `multiple_of`.

    Args:
        model: a network whose outputs are maps; local functions are inlined.
        image: the name of its image input.
        layout: the dimensions of that input, such as ``NHWC``.
        multiple_of: the multiple that the input's height and width must be of, in pixels.

    Returns:
        An odd number of pixels, an upper bound; "unbounded" for a network with an operator over the whole image,
        such as global pooling; None when the graph has an operator that is not known here.
    """
    from onnx import inliner

    graph = inliner.inline_local_functions(model).graph
    walk = _Walk(
        graph, image, _Field((layout.index("H"), layout.index("W")), (_Axis.of_image(), _Axis.of_image()))
    )
    try:
        fields = [walk.of(output.name) for output in graph.output]
    except _UnboundedFieldError:
        return "unbounded"
    except _UnknownFieldError:
        return None
    axes = [axis for field in fields if field is not None for axis in field.axes]
    reach_px = max((axis.reach_px(multiple_of) for axis in axes), default=0)
    return "unbounded" if reach_px > MAX_REACH_PX else 2 * reach_px + 1


class _Walk:
    """Computes the field of each tensor of a graph, in the order of its nodes."""

    def __init__(self, graph: onnx.GraphProto, image: str, field: _Field) -> None:
        from onnx import numpy_helper

        self._constants: dict[str, Any] = {
            item.name: numpy_helper.to_array(item) for item in graph.initializer if math.prod(item.dims) <= 64
        }
        self._ranks = {item.name: len(item.dims) for item in graph.initializer}
        self._shapes = {item.name: tuple(item.dims) for item in graph.initializer}
        self._fields: dict[str, _Field | None] = {image: field}
        self._errors: dict[str, Exception] = {}
        for node in graph.node:
            self._visit(node)

    def of(self, name: str) -> _Field | None:
        """The field of a tensor; None for one that does not depend on pixels. Raises what its nodes raised."""
        if name in self._errors:
            raise self._errors[name]
        return self._fields.get(name)

    def _visit(self, node: onnx.NodeProto) -> None:
        from onnx import helper, numpy_helper

        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            self._constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            return
        try:
            fields = [self.of(name) for name in node.input]
            field = None
            if any(item is not None for item in fields) and node.op_type != "Shape":
                field = self._field(node, attributes, fields)
        except (_UnknownFieldError, _UnboundedFieldError) as error:
            self._errors.update(dict.fromkeys(node.output, error))
            return
        self._fields.update(dict.fromkeys(node.output, field))

    def _field(self, node: onnx.NodeProto, attributes: dict[str, Any], fields: list[_Field | None]) -> _Field:
        kind = node.op_type
        if kind in _GLOBAL:
            raise _UnboundedFieldError
        if kind in _POINTWISE:
            return _joined(fields)
        field = fields[0]
        if field is None or (any(item is not None for item in fields[1:]) and kind not in _ALONG_AXIS):
            raise _UnknownFieldError(f"{kind} of several tensors")
        if kind == "Conv" or kind in _POOLS:
            return self._windowed(node, attributes, field)
        if kind in _ALONG_AXIS:
            _require_other_axis(_joined(fields), [attributes.get("axis", _DEFAULT_AXIS.get(kind))])
            return _joined(fields)
        if kind in _REDUCTIONS:
            return self._reduced(node, attributes, field)
        rule = _RULES.get(kind)
        if rule is None:
            raise _UnknownFieldError(f"the operator {kind}")
        return rule(self, node, attributes, field)

    def _windowed(self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        """Convolutions and pools, whose spatial dimensions are the last two."""
        kernel, strides, dilations, pads = self._geometry(node, attributes, field)
        if attributes.get("ceil_mode", 0):
            raise _UnknownFieldError("a pool that rounds sizes up")
        same = attributes.get("auto_pad", b"NOTSET")
        axes = []
        for place, axis in enumerate(field.axes):
            extent, stride = dilations[place] * (kernel[place] - 1), strides[place]
            before, after = pads[place], pads[place + 2]
            if same in (b"SAME_UPPER", b"SAME_LOWER"):
                total = max((-(-len(axis) // stride) - 1) * stride + extent + 1 - len(axis), 0)
                before = total // 2 if same == b"SAME_UPPER" else -(-total // 2)
                after = total - before
            first = np.arange((len(axis) + before + after - extent - 1) // stride + 1) * stride - before
            axes.append(axis.taken(first, first + extent))
        return _Field(field.dims, (axes[0], axes[1]))

    def _transposed(self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        """ConvTranspose: element ``j`` depends on elements ``(j + pad - dilation * t) / stride``."""
        kernel, strides, dilations, pads = self._geometry(node, attributes, field)
        if "output_shape" in attributes:
            raise _UnknownFieldError("a ConvTranspose with a fixed output shape")
        same = attributes.get("auto_pad", b"NOTSET")
        extra = attributes.get("output_padding") or (0, 0)
        axes = []
        for place, axis in enumerate(field.axes):
            extent, stride = dilations[place] * (kernel[place] - 1), strides[place]
            before, after = pads[place], pads[place + 2]
            if same in (b"SAME_UPPER", b"SAME_LOWER"):
                total = max(extent + 1 + extra[place] - stride, 0)
                before = -(-total // 2) if same == b"SAME_LOWER" else total // 2
                after = total - before
            size = (len(axis) - 1) * stride + extra[place] + extent + 1 - before - after
            at = np.arange(size) + before
            axes.append(axis.taken(-(-(at - extent) // stride), at // stride))
        return _Field(field.dims, (axes[0], axes[1]))

    def _geometry(
        self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field
    ) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
        """Kernel, strides, dilations ``(h, w)`` and paddings ``(top, left, bottom, right)`` of an operator."""
        _require_nchw(field)
        kernel = attributes.get("kernel_shape") or (
            self._shapes.get(node.input[1], ())[2:] if len(node.input) > 1 else ()
        )
        if len(kernel) != 2:
            raise _UnknownFieldError("a kernel of unknown size")
        return (
            kernel,
            attributes.get("strides") or (1, 1),
            attributes.get("dilations") or (1, 1),
            attributes.get("pads") or (0, 0, 0, 0),
        )

    def _reduced(self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        axes = attributes.get("axes", self._constant(node, 1))
        if node.op_type in ("ArgMax", "ArgMin"):
            axes = [attributes.get("axis", 0)]
        if axes is None or {int(item) % 4 for item in axes} & set(field.dims):
            raise _UnboundedFieldError
        if not attributes.get("keepdims", 1):
            raise _UnknownFieldError("a reduction that removes dimensions")
        return field

    def _transpose(self, _node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        order = list(attributes["perm"])
        return _Field((order.index(field.dims[0]), order.index(field.dims[1])), field.axes)

    def _depth_to_space(self, _node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        _require_nchw(field)
        return field.mapped(lambda axis: _repeated(axis, attributes["blocksize"]))

    def _space_to_depth(self, _node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        _require_nchw(field)
        size = attributes["blocksize"]
        return field.mapped(lambda axis: axis.taken(at := np.arange(len(axis) // size) * size, at + size - 1))

    def _resize(self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        """Upsampling by whole factors."""
        scales = self._constant(node, 1 if node.op_type == "Upsample" else 2)
        mode = attributes.get("mode", b"nearest")
        if scales is None or len(scales) != 4 or mode not in (b"nearest", b"linear"):
            raise _UnknownFieldError("a Resize to a size that is not constant")
        axes = []
        for dim, axis in zip(field.dims, field.axes, strict=True):
            scale = float(scales[dim])
            if scale < 1 or not scale.is_integer():
                raise _UnknownFieldError(f"a Resize by {scale:g}")
            if mode == b"nearest" or scale == 1:
                axes.append(_repeated(axis, int(scale)))
            elif attributes.get("coordinate_transformation_mode", b"half_pixel").endswith(b"half_pixel"):
                at = (np.arange(len(axis) * int(scale)) + 0.5) / scale - 0.5
                axes.append(axis.taken(np.floor(at).astype(np.int64), np.ceil(at).astype(np.int64)))
            else:
                raise _UnknownFieldError("a linear Resize that is not centred")
        return _Field(field.dims, (axes[0], axes[1]))

    def _pad(self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        pads = attributes.get("pads", self._constant(node, 1))
        if pads is None or len(pads) != 8:
            raise _UnknownFieldError("a Pad that is not constant")
        axes = []
        for dim, axis in zip(field.dims, field.axes, strict=True):
            at = np.arange(len(axis) + int(pads[dim]) + int(pads[dim + 4])) - int(pads[dim])
            axes.append(axis.taken(at, at))
        return _Field(field.dims, (axes[0], axes[1]))

    def _slice(self, node: onnx.NodeProto, _attributes: dict[str, Any], field: _Field) -> _Field:
        starts, ends, dims, steps = (self._constant(node, place) for place in (1, 2, 3, 4))
        if starts is None or ends is None or dims is None or (steps is not None and (steps != 1).any()):
            raise _UnknownFieldError("a Slice that is not constant, or with steps")
        axes = dict(zip(field.dims, field.axes, strict=True))
        for start, end, dim in zip(starts.tolist(), ends.tolist(), (dims % 4).tolist(), strict=True):
            if dim in axes:
                at = np.arange(len(axes[dim]))[start:end]
                axes[dim] = axes[dim].taken(at, at)
        return _Field(field.dims, (axes[field.dims[0]], axes[field.dims[1]]))

    def _split(self, _node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        _require_other_axis(field, [attributes.get("axis", 0)])
        return field

    def _gather(self, node: onnx.NodeProto, attributes: dict[str, Any], field: _Field) -> _Field:
        """Channels by a list of constant indices."""
        _require_other_axis(field, [attributes.get("axis", 0)])
        chosen = self._constant(node, 1)
        if chosen is None or chosen.ndim != 1:
            raise _UnknownFieldError("a Gather of other than a constant list of channels")
        return field

    def _matmul(self, node: onnx.NodeProto, _attributes: dict[str, Any], field: _Field) -> _Field:
        """A matrix of weights on the last dimension, which must be the channels."""
        _require_other_axis(field, [-1])
        if self._ranks.get(node.input[1]) != 2:
            raise _UnknownFieldError("a MatMul without a matrix of weights")
        return field

    def _constant(self, node: onnx.NodeProto, place: int) -> np.ndarray[Any, Any] | None:
        name = node.input[place] if place < len(node.input) else ""
        return self._constants.get(name)


_Rule = Callable[[_Walk, Any, dict[str, Any], _Field], _Field]
_RULES: dict[str, _Rule] = {
    "ConvTranspose": _Walk._transposed,
    "DepthToSpace": _Walk._depth_to_space,
    "Gather": _Walk._gather,
    "MatMul": _Walk._matmul,
    "Pad": _Walk._pad,
    "Resize": _Walk._resize,
    "Slice": _Walk._slice,
    "SpaceToDepth": _Walk._space_to_depth,
    "Split": _Walk._split,
    "Transpose": _Walk._transpose,
    "Upsample": _Walk._resize,
}


def _repeated(axis: _Axis, times: int) -> _Axis:
    """Each element becomes `times` elements."""
    at = np.arange(len(axis) * times) // times
    return axis.taken(at, at)


def _joined(fields: Sequence[_Field | None]) -> _Field:
    """The field of an operator on elements at equal places."""
    first, *others = [field for field in fields if field is not None]
    for other in others:
        if other.dims != first.dims:
            raise _UnknownFieldError("tensors of different layouts are combined")
        first = _Field(first.dims, (first.axes[0].joined(other.axes[0]), first.axes[1].joined(other.axes[1])))
    return first


def _require_nchw(field: _Field) -> None:
    if field.dims != (2, 3):
        raise _UnknownFieldError("an operator on dimensions other than height and width")


def _require_other_axis(field: _Field, axes: Sequence[int | None]) -> None:
    """Operators along channels keep the field; along an axis of the image they are not computed here."""
    if any(axis is None or axis % 4 in field.dims for axis in axes):
        raise _UnknownFieldError("an operator along an axis of the image")
