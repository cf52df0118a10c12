"""A library's network, opened by its own framework, with all that its package will state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt

from slidecascade.errors import InvalidRequestError
from slidecascade.models.tensors import PERCENTILES, InputSpec, OutputSpec, Tensors, rgb_image
from slidecascade_convert.agreement import BATCHES
from slidecascade_convert.library_request import LibraryRequest

if TYPE_CHECKING:
    import onnx

RGB: Final = ("red", "green", "blue")
IMAGE: Final = "image"
_MOST_CHANNELS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryNetwork:
    """What every library's module opens a source as.

    Attributes:
        title: the library and its network, for the model card.
        head: what decodes it.
        image: the served input.
        outputs: the served outputs, which the head decodes.
        options: of the head: what the library published with the weights.
        mpp: micrometres per pixel.
        object_diameter_px: mean diameter of the objects it was trained on; None where the file states none.
        predict: the served outputs by name, as the network's own framework computes them for served inputs.
        export: the graph with the served input and outputs by name.
        versions: of the libraries that opened it.
        notes: what was assumed, one sentence each.
        finds_boxes: the outputs are detections, of which pairs are compared.
        batches: numbers of images that are compared.
        sizes: heights and widths that are compared, in steps of the image's multiple or 64 px.
    """

    title: str
    head: str
    image: InputSpec
    outputs: tuple[OutputSpec, ...]
    options: Mapping[str, Any]
    mpp: float
    object_diameter_px: float | None = None
    predict: Callable[[npt.NDArray[Any]], Tensors]
    export: Callable[[], onnx.ModelProto]
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    finds_boxes: bool = False
    batches: tuple[int, ...] = BATCHES
    sizes: tuple[tuple[int, int], ...] = ((2, 2), (2, 3), (3, 1))


def channel_image(
    channels: Sequence[str], *, layout: str, multiple_of: int, percentiles: tuple[float, float] = PERCENTILES
) -> InputSpec:
    """The served input: RGB of 8 bits for the three colours, otherwise channels by meaning of 0 to 1."""
    if tuple(channels) == RGB:
        return rgb_image(multiple_of=multiple_of)
    sizes = {"C": len(channels), "H": "height", "W": "width"}
    return InputSpec(
        name=IMAGE,
        dtype="float32",
        layout=layout,
        shape=("batch", *(sizes[axis] for axis in layout[1:])),
        channels=tuple(channels),
        range=(0, 1),
        multiple_of=multiple_of,
        percentiles=percentiles,
    )


def channels_of(request: LibraryRequest, *, most: int, default: tuple[str, ...]) -> tuple[str, ...]:
    """The meanings of the served channels.

    Raises:
        InvalidRequestError: there are more of them than the network takes.
    """
    chosen = request.channels or default
    most = min(most, _MOST_CHANNELS)
    if len(chosen) > most:
        raise InvalidRequestError(
            f"The network takes at most {most} channels, and {len(chosen)} are named: correct --input-channels."
        )
    return chosen


def mpp_of(request: LibraryRequest, *, otherwise: float | None = None) -> float:
    """The pixel size of a network whose file states no diameter; `otherwise` is that of its library.

    Raises:
        InvalidRequestError: none is stated, or a diameter is.
    """
    if request.diameter_um is not None:
        raise InvalidRequestError(
            "--diameter is for a CPnet, whose file states the diameter it was trained on: leave it out, and state "
            "the pixel size with --mpp."
        )
    if request.mpp is not None:
        return request.mpp
    if otherwise is None:
        raise InvalidRequestError(
            "The source does not state the pixel size that its network was trained at: add --mpp, in um per pixel."
        )
    return otherwise
