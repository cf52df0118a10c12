"""The network as it was trained, opened by its own framework.

A framework is one module with a function that opens a file as an `Original`; everything after that, from the
normalisation to the comparison, is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.request import Layout

if TYPE_CHECKING:
    import onnx


GREY_WEIGHTS: Final = (19595, 38470, 7471)
"""Of red, green and blue in grey, in 65536ths: 0.299, 0.587, 0.114 (ITU-R BT.601), as Pillow makes it. Every sum
of them is a whole number below 2 ** 24, so that float32 is exact in any order."""

GREY_HALF, GREY_UNIT = 2**15, 2**16

GREY_NOTE: Final = (
    "The network sees one channel: grey, 0.299 red + 0.587 green + 0.114 blue, rounded, made in the graph."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an original states about itself.

    Attributes:
        layout: of its input; outputs of rank 4 have the same.
        height_px, width_px: its input size; None where any (that its strides allow) will do.
        takes_bytes: the input is uint8, so that it normalises by itself.
        answers_bytes: the output is uint8, ``round(255 * p)``; `Original.predict` gives p.
        is_grey: the input has one channel, which is made of `GREY_WEIGHTS`.
        batch: how many images it takes at a time; None for any number.
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
    is_grey: bool = False
    batch: int | None = None
    has_rescaling: bool = False
    tolerance: float = 1e-4
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Of a network's input; None for a size that is left open."""

    layout: Layout
    height_px: int | None
    width_px: int | None
    is_grey: bool


def image_shape(what: str, sizes: Sequence[int | None] | None) -> ImageShape:
    """The layout of images by the sizes of a network's input.

    Args:
        what: the input in words, for the refusal.
        sizes: batch and the three sizes of an image; None where not even their number is known.

    Raises:
        ConversionError: when it is not a batch of RGB or grey images.
    """
    if sizes is not None and len(sizes) == 4:
        for channels in (3, 1):
            if sizes[3] == channels and sizes[1] != channels:
                return ImageShape("NHWC", sizes[1], sizes[2], is_grey=channels == 1)
            if sizes[1] == channels:
                return ImageShape("NCHW", sizes[2], sizes[3], is_grey=channels == 1)
    raise ConversionError(
        f"{what} has the shape {None if sizes is None else tuple(sizes)}: it must be a batch of RGB or grey "
        "images, (N, H, W, 3), (N, 3, H, W), (N, H, W, 1) or (N, 1, H, W)."
    )


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
