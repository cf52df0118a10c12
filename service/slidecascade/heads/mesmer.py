"""Inner distance and interior to objects: a watershed from markers (Mesmer; Greenwald et al. 2022).

Written from the paper. A marker is a maximum of the inner distance above a threshold; objects grow from the
markers over the interior, and meet where that is lowest between them. The network states both for whole cells and
for nuclei; which of them a model finds is its option `compartment`.

The landscape is the smoothed interior in steps, and where it is flat the inner distance: every pixel goes up to
the highest of its neighbours until it comes to a marker or to a top; tops without a marker join the neighbour over
the highest pass (the minimum spanning forest of Cousty et al. 2009). What an object becomes depends on it and on
those it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.labels import at_least, fill_holes, grey_level, grey_levels, pieces, without_specks
from slidecascade.heads.objects import Labels
from slidecascade.heads.watershed import flooded
from slidecascade.models.tensors import OutputSpec, Tensors

Compartment = Literal["whole-cell", "nuclear"]
_MAXIMA: Final = {"whole-cell": 0.075, "nuclear": 0.1}
_SMOOTHING_PX, _SMOOTHING_WINDOW_PX = 2.0, 17
_MARKER_RADIUS_PX = 2
_LEVEL_BITS = 4
"""Of the interior: as many of its upper bits are the landscape's steps."""


class MesmerOptions(SegmenterOptions):
    """See the module.

    Attributes:
        foreground: the interior from which a pixel may belong to an object.
        compartment: whether whole cells or nuclei are found.
        maximum: the least inner distance of a marker; None: the published 0.075 of whole cells, 0.1 of nuclei.
    """

    foreground: Annotated[float, Field(gt=0, lt=1)] = 0.2
    min_area_um2: Annotated[float, Field(ge=0)] = 3.75
    compartment: Compartment = "whole-cell"
    maximum: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def least_maximum(self) -> float:
        return _MAXIMA[self.compartment] if self.maximum is None else self.maximum

    @property
    def output_names(self) -> tuple[str, str]:
        """The outputs that are decoded: inner distance and pixelwise."""
        prefix = "whole_cell" if self.compartment == "whole-cell" else "nuclear"
        return f"{prefix}_inner_distance", f"{prefix}_pixelwise"


def decode(
    inner: NDArray[np.float32],
    interior: NDArray[np.uint8],
    *,
    foreground: float,
    maximum: float,
    min_area_px: float,
) -> NDArray[np.int32]:
    """Turn the two maps into a label image.

    Args:
        inner: ``(H, W)`` float32, 1 in the middle of an object and less further out.
        interior: ``(H, W)`` uint8, ``round(255 * p)``.
        foreground, maximum: see `MesmerOptions`.
        min_area_px: objects of fewer pixels are dropped.

    Returns:
        ``(H, W)`` int32 labels: 0 is background, objects are 1 to n in the raster order of their markers.
    """
    smooth = _smooth(interior)
    mask = at_least(smooth, grey_level(foreground))
    side = 2 * _MARKER_RADIUS_PX + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    is_top = cv2.compare(inner, cv2.dilate(inner, disk), cv2.CMP_EQ)
    is_top &= cv2.compare(inner, maximum, cv2.CMP_GT) & mask
    markers = pieces(is_top)
    if markers.count == 1:
        return np.zeros(mask.shape, np.int32)
    steps = (smooth >> (8 - _LEVEL_BITS)).astype(np.uint16) << 12
    landscape = np.bitwise_or(steps, np.rint(np.clip(inner, 0, 1) * 4095).astype(np.uint16), dtype=np.uint16)
    labels = flooded(landscape, mask, markers.labels)
    dense = labels.astype(np.uint16) if markers.count < 2**16 else labels.astype(np.float32)
    fill_holes(dense)
    return without_specks(dense, markers.count, min_area_px)


def _smooth(interior: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A Gaussian of whole numbers, which is the same wherever the image starts."""
    window = (_SMOOTHING_WINDOW_PX, _SMOOTHING_WINDOW_PX)
    return np.asarray(cv2.GaussianBlur(interior, window, _SMOOTHING_PX), np.uint8)


class _MesmerHead(ObjectHead[MesmerOptions]):
    """Whole cells or nuclei."""

    name: ClassVar[str] = "mesmer"
    options = MesmerOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        return self.outputs_with(classes, MesmerOptions())

    def outputs_with(self, classes: Sequence[str], options: MesmerOptions) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        """Those of the compartment; a network may return those of the other too."""
        inner, pixelwise = options.output_names
        shape = ("batch", "height", "width")
        return (
            OutputSpec(
                name=inner, dtype="float32", layout="NHWC", shape=(*shape, 1), range=(0, 1), meaning="distance"
            ),
            OutputSpec(
                name=pixelwise,
                dtype="float32",
                layout="NHWC",
                shape=(*shape, 3),
                channels=("edge", "interior", "background"),
                range=(0, 1),
                meaning="probability",
            ),
        )

    def decode(self, outputs: Tensors, options: MesmerOptions, *, mpp: float) -> Labels:
        interior = _interior(outputs, options)
        labels = decode(
            np.ascontiguousarray(outputs[options.output_names[0]][:, :, 0]),
            interior,
            foreground=options.foreground,
            maximum=options.least_maximum,
            min_area_px=options.min_area_px(mpp),
        )
        return Labels(labels, interior)

    def extent(self, outputs: Tensors, options: MesmerOptions, *, mpp: float) -> NDArray[np.uint8]:  # noqa: ARG002 - of all heads
        return at_least(_smooth(_interior(outputs, options)), grey_level(options.foreground))

    def reach_px(self, options: MesmerOptions, *, mpp: float) -> int:  # noqa: ARG002 - of all heads
        return _SMOOTHING_WINDOW_PX // 2 + _MARKER_RADIUS_PX


def _interior(outputs: Tensors, options: MesmerOptions) -> NDArray[np.uint8]:
    return grey_levels(np.asarray(cv2.extractChannel(outputs[options.output_names[1]], 1), np.float32))


MESMER: Final = _MesmerHead()
