"""Networks of one input size at any size, and of one image a batch at any batch, within the ONNX graph.

A segmenter that was exported at a fixed size is run on windows of that size. They lie on a lattice whose step is
`Windows.step_px`: each gives the middle of its answer, so that every pixel is seen with a margin around it, and a
tile that begins at a multiple of the step gets the same windows however the slide is cut. At the tile's edge the
image is mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.nodes import Nodes
from slidecascade_convert.original import Original

if TYPE_CHECKING:
    import onnx

MAX_STEP_PX: Final = 256
"""Largest number whose multiples a package may ask its tiles to be."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The lattice for a network that looks at `height_px` x `width_px`."""

    height_px: int
    width_px: int

    @property
    def step_px(self) -> int:
        """Half of the shorter side, as a power of two: the margin is a quarter of the window at least."""
        half = min(self.height_px, self.width_px, 2 * MAX_STEP_PX) // 2
        if half < 16:
            raise ConversionError(
                f"The network looks at {self.width_px} x {self.height_px} px, too few to put tiles together: "
                "export it with dynamic height and width."
            )
        return 1 << (half.bit_length() - 1)

    def cut(self, nodes: Nodes, image: str, prefix: str = "window") -> str:
        """The windows of `image` ``(N, H, W, C)``, in rows: ``(N * rows * columns, height_px, width_px, C)``."""
        _sizes(nodes, image)
        rows = self._indices(nodes, "image_height", self.height_px, f"{prefix}_rows")
        columns = self._indices(nodes, "image_width", self.width_px, f"{prefix}_columns")
        value = nodes.add("Gather", [image, rows], f"{prefix}_bands", axis=1)
        value = nodes.add("Gather", [value, columns], f"{prefix}_parts", axis=3)
        value = nodes.add("Transpose", [value], f"{prefix}_sorted", perm=[0, 1, 3, 2, 4, 5])
        shape = nodes.ints(f"{prefix}_shape", [-1, self.height_px, self.width_px])
        shape = nodes.add("Concat", [shape, "image_channels"], f"{prefix}_full_shape", axis=0)
        return nodes.add("Reshape", [value, shape], f"{prefix}_images")

    def join(self, nodes: Nodes, maps: str, channels: int, prefix: str = "joined") -> str:
        """The maps ``(N, H, W, channels)`` of the image that `cut` has cut, from those of its windows."""
        step = self.step_px
        top, left = (self.height_px - step) // 2, (self.width_px - step) // 2
        starts = nodes.ints(f"{prefix}_starts", [top, left])
        ends = nodes.ints(f"{prefix}_ends", [top + step, left + step])
        value = nodes.add("Slice", [maps, starts, ends, nodes.ints(f"{prefix}_axes", [1, 2])], f"{prefix}_middles")
        counts = ["image_count", "image_height_windows", "image_width_windows"]
        tail = nodes.ints(f"{prefix}_tail", [step, step, channels])
        shape = nodes.add("Concat", [*counts, tail], f"{prefix}_shape", axis=0)
        value = nodes.add("Reshape", [value, shape], f"{prefix}_lattice")
        value = nodes.add("Transpose", [value], f"{prefix}_sorted", perm=[0, 1, 3, 2, 4, 5])
        last = nodes.ints(f"{prefix}_channels", [channels])
        parts = ["image_count", "image_height_covered", "image_width_covered", last]
        value = nodes.add(
            "Reshape", [value, nodes.add("Concat", parts, f"{prefix}_size", axis=0)], f"{prefix}_whole"
        )
        size = nodes.add("Concat", ["image_height", "image_width"], f"{prefix}_region", axis=0)
        origin, axes = nodes.ints(f"{prefix}_origin", [0, 0]), nodes.ints(f"{prefix}_sides", [1, 2])
        return nodes.add("Slice", [value, origin, size, axes], f"{prefix}_maps")

    def _indices(self, nodes: Nodes, length: str, side: int, prefix: str) -> str:
        """Which row (or column) of the image each row of each window shows: ``(windows, side)``, mirrored."""
        step = nodes.ints(f"{prefix}_step", [self.step_px])
        one = nodes.ints(f"{prefix}_one", [1])
        above = nodes.add("Add", [length, nodes.ints(f"{prefix}_less", [self.step_px - 1])], f"{prefix}_above")
        count = nodes.add("Div", [above, step], f"{length}_windows")
        nodes.add("Mul", [count, step], f"{length}_covered")
        scalar = nodes.constant(f"{prefix}_scalar", np.array(0, np.int64))
        number = nodes.add("Squeeze", [count], f"{prefix}_count")
        unit = nodes.constant(f"{prefix}_unit", np.array(1, np.int64))
        first = nodes.add("Range", [scalar, number, unit], f"{prefix}_numbers")
        first = nodes.add("Mul", [first, step], f"{prefix}_firsts")
        first = nodes.add("Unsqueeze", [first, one], f"{prefix}_column")
        offsets = np.arange(side, dtype=np.int64) - (side - self.step_px) // 2
        index = nodes.add("Add", [first, nodes.constant(f"{prefix}_offsets", offsets[None])], f"{prefix}_open")
        return _mirrored(nodes, index, length, prefix)


def _mirrored(nodes: Nodes, index: str, length: str, prefix: str) -> str:
    """`index` folded into ``[0, length)``: ``-1`` is 0, ``length`` is ``length - 1``, and so on."""
    two = nodes.ints(f"{prefix}_two", [2])
    period = nodes.add("Mul", [length, two], f"{prefix}_period")
    folded = nodes.add("Mod", [index, period], f"{prefix}_folded")  # of the divisor's sign: not negative
    last = nodes.add("Sub", [period, nodes.ints(f"{prefix}_end", [1])], f"{prefix}_last")
    back = nodes.add("Sub", [last, folded], f"{prefix}_back")
    return nodes.add("Min", [folded, back], f"{prefix}_index")


def _sizes(nodes: Nodes, image: str) -> None:
    """The image's four sizes as tensors of one number each."""
    shape = nodes.add("Shape", [image], "image_shape")
    for axis, name in enumerate(("image_count", "image_height", "image_width", "image_channels")):
        nodes.add("Gather", [shape, nodes.ints(f"{name}_axis", [axis])], name, axis=0)


class Windowed:
    """An original of one size, run on windows by NumPy, as the reference for the served graph."""

    def __init__(self, original: Original, windows: Windows) -> None:
        self._original, self._windows = original, windows
        self.facts = original.facts

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """As the original for pixels of any height and width."""
        is_first = self.facts.layout == "NCHW"
        images = pixels.transpose(0, 2, 3, 1) if is_first else pixels
        step, (height, width) = self._windows.step_px, images.shape[1:3]
        top, left = (self._windows.height_px - step) // 2, (self._windows.width_px - step) // 2
        below, right = -height % step + top, -width % step + left
        padded = np.pad(images, ((0, 0), (top, below), (left, right), (0, 0)), mode="symmetric")
        rows = []
        for y in range(0, height, step):
            row = [self._middle(padded, y, x, top, left) for x in range(0, width, step)]
            rows.append(np.concatenate(row, axis=2))
        whole = np.concatenate(rows, axis=1)[:, :height, :width]
        return whole.transpose(0, 3, 1, 2) if is_first else whole

    def export(self) -> onnx.ModelProto:
        return self._original.export()

    def _middle(self, padded: npt.NDArray[Any], y: int, x: int, top: int, left: int) -> npt.NDArray[np.float32]:
        window = padded[:, y : y + self._windows.height_px, x : x + self._windows.width_px]
        is_first, step = self.facts.layout == "NCHW", self._windows.step_px
        answer = self._original.predict(np.ascontiguousarray(window.transpose(0, 3, 1, 2) if is_first else window))
        if answer.ndim != 4:
            raise ConversionError(
                f"The network answers with the shape {answer.shape[1:]} per image, a segmenter with maps: convert "
                "it with --task classify."
            )
        maps = answer.transpose(0, 2, 3, 1) if is_first else answer
        if maps.shape[1:3] != (self._windows.height_px, self._windows.width_px):
            raise ConversionError(
                f"The network's maps have {maps.shape[2]} x {maps.shape[1]} px for an image of "
                f"{self._windows.width_px} x {self._windows.height_px}: only maps of the image's size are served."
            )
        return maps[:, top : top + step, left : left + step]


def one_by_one(graph: Any, old_input: Any, old_output: Any, element: int) -> Any:
    """A Scan over the batch that runs the nodes of `graph`, which take one image, for each image in turn.

    Args:
        graph: of a network whose batch is 1.
        old_input, old_output: its input and its output; the Scan takes and gives tensors of these names.
        element: ONNX type of the input.

    Returns:
        The node.
    """
    from onnx import helper

    inner_input, inner_output = f"{old_input.name}/each", f"{old_output.name}/each"
    sizes = [dim.dim_value or None for dim in old_input.type.tensor_type.shape.dim][1:]
    axes = helper.make_tensor("one_by_one/axes", 7, [1], [0])
    body_input, body_output = f"{old_input.name}/one", f"{old_output.name}/one"
    renamed = {old_input.name: body_input, old_output.name: body_output}
    inner = [_renamed(node, renamed) for node in graph.node]
    nodes = [
        helper.make_node("Unsqueeze", [inner_input, "one_by_one/axes"], [body_input]),
        *inner,
        helper.make_node("Squeeze", [body_output, "one_by_one/axes"], [inner_output]),
    ]
    body = helper.make_graph(
        nodes,
        "one_image",
        [helper.make_tensor_value_info(inner_input, element, sizes)],
        [helper.make_tensor_value_info(inner_output, old_output.type.tensor_type.elem_type, None)],
        [axes],
    )
    return helper.make_node("Scan", [old_input.name], [old_output.name], num_scan_inputs=1, body=body)


def _renamed(node: Any, names: dict[str, str]) -> Any:
    """A copy of `node` with other names of some tensors; those within its own subgraphs stay."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for tensors in (copy.input, copy.output):
        for index, name in enumerate(tensors):
            tensors[index] = names.get(name, name)
    return copy
