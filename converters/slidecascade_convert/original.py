"""The network as it was trained, opened by its own framework.

A framework is one module with a function that opens a file as an `Original`; everything after that, from the
normalisation to the comparison, is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.request import Layout

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an original states about itself.

    Attributes:
        layout: of its input; outputs of rank 4 have the same.
        height_px, width_px: its input size; None where any (that its strides allow) will do.
        takes_bytes: the input is uint8, so that it normalises by itself.
        answers_bytes: the output is uint8, ``round(255 * p)``; `Original.predict` gives p.
        has_rescaling: pixels are scaled inside.
        tolerance: largest difference of probabilities that rounding explains.
        versions: of the libraries that opened it.
        notes: what was replaced or assumed, one sentence each.
    """

    layout: Layout
    height_px: int | None
    width_px: int | None
    takes_bytes: bool = False
    answers_bytes: bool = False
    has_rescaling: bool = False
    tolerance: float = 1e-4
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def image_shape(what: str, sizes: Sequence[int | None] | None) -> tuple[Layout, int | None, int | None]:
    """Layout, height and width of a network's input; None for a size that is left open.

    Args:
        what: the input in words, for the refusal.
        sizes: batch and the three sizes of an image; None where not even their number is known.

    Raises:
        ConversionError: when it is no batch of RGB images.
    """
    if sizes is None or len(sizes) != 4 or 3 not in (sizes[1], sizes[3]):
        raise ConversionError(
            f"{what} has the shape {None if sizes is None else tuple(sizes)}: it must be a batch of RGB images, "
            "(N, H, W, 3) or (N, 3, H, W)."
        )
    if sizes[3] == 3 and sizes[1] != 3:
        return "NHWC", sizes[1], sizes[2]
    return "NCHW", sizes[2], sizes[3]


class Original(Protocol):
    """An opened network with one image input and one output."""

    @property
    def facts(self) -> Facts: ...

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The output for `pixels`, of the layout and type that `facts` states."""
        ...

    def export(self) -> onnx.ModelProto:
        """The same network as an ONNX graph of opset 17 or newer, with the same input."""
        ...
