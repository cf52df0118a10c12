"""A foreground map to objects: its connected pieces.

For networks that were trained on masks alone. Objects that touch are one; what separates them has to be in the
map. Which object a pixel belongs to depends on the pieces of that object only, so overlapping tiles agree on every
object that both show whole.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slidecascade.heads.head import MaskHead, ObjectHead, SegmenterOptions
from slidecascade.heads.labels import at_least, fill_holes, grey_level, grey_levels, pieces, without_specks
from slidecascade.heads.objects import Labels
from slidecascade.models.tensors import OutputSpec, Tensors

OUTPUTS = (
    OutputSpec(
        name="maps",
        dtype="uint8",
        layout="NHWC",
        shape=("batch", "height", "width", 1),
        channels=("foreground",),
        range=(0, 255),
        meaning="probability",
    ),
)
"""What this head decodes: a map of ``round(255 * p)``, a pixel for each pixel of the input."""


def decode(maps: npt.NDArray[np.uint8], *, foreground: float, min_area_px: float) -> npt.NDArray[np.int32]:
    """Turn a foreground map into a label image.

    Args:
        maps: ``(H, W, 1)`` uint8, ``round(255 * p)`` of the foreground.
        foreground: Probability in 0 to 1 from which a pixel belongs to an object.
        min_area_px: Objects of fewer pixels are dropped, their holes counted in.

    Returns:
        ``(H, W)`` int32 labels: 0 is background, objects are 1 to n in the raster order of their first pixels.
        Pixels that share a corner are connected; holes are filled.

    Raises:
        ValueError: The maps have another shape or type.
    """
    if maps.dtype != np.uint8 or maps.ndim != 3 or maps.shape[2] != 1:
        raise ValueError(f"Maps are {maps.dtype} {maps.shape}; the semantic head wants uint8 (H, W, 1).")
    found = pieces(at_least(maps[:, :, 0], grey_level(foreground)))
    if found.count == 1:
        return np.zeros(maps.shape[:2], np.int32)
    labels = found.dense()
    fill_holes(labels)
    return without_specks(labels, found.count, min_area_px)


class SemanticOptions(SegmenterOptions):
    """`output`: the output that holds the map, where it is not called ``maps``: a float32 probability, NCHW.

    A U2-Net returns seven such maps, of which the first is its answer and the others served its training.
    """

    output: Annotated[str, Field(min_length=1, max_length=128)] = "maps"


def probability_map(name: str) -> OutputSpec:
    """A float32 probability for each pixel, as PyTorch's networks return it."""
    return OutputSpec(
        name=name,
        dtype="float32",
        layout="NCHW",
        shape=("batch", 1, "height", "width"),
        channels=("foreground",),
        range=(0, 1),
        meaning="probability",
    )


class _SemanticHead(ObjectHead[SemanticOptions], MaskHead[SemanticOptions]):
    """Objects are the pieces of the foreground; as a mask, the foreground itself is the one class."""

    name: ClassVar[str] = "semantic"
    states_probabilities: ClassVar[bool] = True
    options = SemanticOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        return OUTPUTS

    def outputs_with(self, classes: Sequence[str], options: SemanticOptions) -> tuple[OutputSpec, ...]:
        return self.outputs(classes) if options.output == "maps" else (probability_map(options.output),)

    def decode(self, outputs: Tensors, options: SemanticOptions, *, mpp: float) -> Labels:
        maps = _grey(outputs, options)
        labels = decode(maps[:, :, None], foreground=options.foreground, min_area_px=options.min_area_px(mpp))
        return Labels(labels, maps)

    def extent(self, outputs: Tensors, options: SemanticOptions, *, mpp: float) -> npt.NDArray[np.uint8]:  # noqa: ARG002 - of all heads
        return at_least(_grey(outputs, options), grey_level(options.foreground))

    def reach_px(self, options: SemanticOptions, *, mpp: float) -> int:  # noqa: ARG002 - of all heads
        return 0

    def mask(self, outputs: Tensors, options: SemanticOptions) -> npt.NDArray[np.uint8]:
        return self.extent(outputs, options, mpp=1.0) & np.uint8(1)

    def probabilities_of(self, outputs: Tensors, options: SemanticOptions) -> npt.NDArray[np.uint8]:
        return _grey(outputs, options)[:, :, None]


def _grey(outputs: Tensors, options: SemanticOptions) -> npt.NDArray[np.uint8]:
    """``(H, W)``: ``round(255 * p)`` of the foreground."""
    if options.output == "maps":
        return np.ascontiguousarray(outputs["maps"][:, :, 0])
    return grey_levels(outputs[options.output][0])


SEMANTIC: Final = _SemanticHead()
