"""Foreground and interior maps to cell instances: a seeded watershed, flooded in two levels.

The idea is the watershed by flooding from markers of Meyer and Beucher (1990) with two broad levels: every seed
grows over the foreground, first where the interior map is high, then over the rest, so that touching cells meet
in the valley between them. The steps are dilations of the whole label image.

A seed is a connected piece of the interior map above a threshold, or a prominent peak of one (see `seeds`).

All of it is local: which cell a pixel belongs to depends on the maps around that cell and its neighbours, and on
nothing further away, so overlapping tiles agree where they overlap.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.labels import LabelImage, at_least, fill_holes, grey_level, without_specks
from slidecascade.heads.objects import Labels
from slidecascade.heads.seeds import prominent_pieces
from slidecascade.models.tensors import OutputSpec, Tensors

OUTPUTS = (
    OutputSpec(
        name="maps",
        dtype="uint8",
        layout="NHWC",
        shape=("batch", "height", "width", 2),
        channels=("foreground", "interior"),
        range=(0, 255),
        meaning="probability",
    ),
)
"""What this head decodes: maps of ``round(255 * p)``, a pixel for each pixel of the input."""

_SMOOTHING_PX = 1.2
_SMOOTHING_REACH_PX = 2
_WINDOW_PX = 2 * _SMOOTHING_REACH_PX + 1

# The interior map falls from the seed threshold to 0 across a cell's rim: the part above half the threshold is
# flooded first, then the rest of the foreground, each at most so many pixels far.
_UPPER_LEVEL = 0.5
_UPPER_STEPS = 8
_RIM_STEPS = 20


def decode(
    maps: npt.NDArray[np.uint8],
    *,
    foreground: float,
    seed: float,
    min_area_px: float,
    prominence: float = 1.0,
) -> npt.NDArray[np.int32]:
    """Turn a U-Net's maps into a label image.

    Args:
        maps: ``(H, W, 2)`` uint8, ``round(255 * p)`` of [foreground, interior].
        foreground: Probability in 0 to 1 from which a pixel may belong to a cell.
        seed: Interior probability in 0 to 1 from which a pixel belongs to a seed.
        min_area_px: Cells of fewer pixels are dropped.
        prominence: By how much, of 0 to 1, each of two peaks of the interior map must rise above the pass between
            them to be two seeds; at 1 a connected piece is one seed whatever its peaks.

    Returns:
        ``(H, W)`` int32 labels: 0 is background, cells are 1 to n in the raster order of their seeds.

    Raises:
        ValueError: The maps have another shape or type.
    """
    if maps.dtype != np.uint8 or maps.ndim != 3 or maps.shape[2] != 2:
        raise ValueError(f"Maps are {maps.dtype} {maps.shape}; the unet head wants uint8 (H, W, 2).")
    is_cell = at_least(cv2.extractChannel(maps, 0), grey_level(foreground))
    # Coarse chromatin dents the interior map; smoothed, a nucleus is less often split into several seeds.
    interior = cv2.GaussianBlur(cv2.extractChannel(maps, 1), (_WINDOW_PX, _WINDOW_PX), _SMOOTHING_PX)
    seeds = prominent_pieces(interior, is_cell, level=grey_level(seed), rise=round(255 * prominence))
    if seeds.count == 1:
        return np.zeros(is_cell.shape, np.int32)
    labels = seeds.dense()
    _grow(labels, cv2.bitwise_and(at_least(interior, grey_level(_UPPER_LEVEL * seed)), is_cell), _UPPER_STEPS)
    _grow(labels, is_cell, _RIM_STEPS)
    fill_holes(labels)
    return without_specks(labels, seeds.count, min_area_px)


def _grow(labels: LabelImage, allowed: npt.NDArray[np.uint8], steps: int) -> None:
    """Grow labels in place over the allowed pixels, one pixel a step; where two meet the higher number gets it."""
    assigned = cv2.countNonZero(labels)
    for step in range(steps):
        # Alternating neighbourhoods make the front an octagon rather than a diamond or a square.
        shape = cv2.MORPH_CROSS if step % 2 else cv2.MORPH_RECT
        reached = cv2.dilate(labels, cv2.getStructuringElement(shape, (3, 3)))
        free = cv2.bitwise_and(cv2.compare(labels, 0, cv2.CMP_EQ), allowed)
        cv2.copyTo(reached, free, labels)
        before, assigned = assigned, cv2.countNonZero(labels)
        # The larger neighbourhood gained nothing, so neither will any later step.
        if shape == cv2.MORPH_RECT and assigned == before:
            return


class UnetOptions(SegmenterOptions):
    """See `decode`."""

    seed: Annotated[float, Field(gt=0, lt=1)] = 0.5
    prominence: Annotated[float, Field(gt=0, le=1)] = 1.0


class _UnetHead(ObjectHead[UnetOptions]):
    """Cells grow from seeds within the connected pieces of the foreground."""

    name: ClassVar[str] = "unet"
    options = UnetOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        return OUTPUTS

    def decode(self, outputs: Tensors, options: UnetOptions, *, mpp: float) -> Labels:
        maps = outputs["maps"]
        labels = decode(
            maps,
            foreground=options.foreground,
            seed=options.seed,
            min_area_px=options.min_area_px(mpp),
            prominence=options.prominence,
        )
        return Labels(labels, np.asarray(cv2.extractChannel(maps, 0), np.uint8))

    def extent(self, outputs: Tensors, options: UnetOptions, *, mpp: float) -> npt.NDArray[np.uint8]:  # noqa: ARG002 - of all heads
        foreground = np.asarray(cv2.extractChannel(outputs["maps"], 0), np.uint8)
        return at_least(foreground, grey_level(options.foreground))

    def reach_px(self, options: UnetOptions, *, mpp: float) -> int:  # noqa: ARG002 - of all heads
        return _SMOOTHING_REACH_PX


UNET: Final = _UnetHead()
