"""The region with what was found drawn in the colours of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.kinds.result import RegionResult
from slidecascade.outputs.caption import MIN_WIDTH, PAPER, Counted, caption
from slidecascade.pipelines.classes import ClassTree
from slidecascade.rings import Rings, split

MAX_SIDE_PX = 4096
"""Longest side of the region in ``overlay.png``: outlines stay visible, and it is 50 MB decoded at most."""

LARGE_CELL_PX = 20
"""Typical diameter in the image from which on outlines get a little wider."""

_SHIFT_BITS = 4  # OpenCV draws at 1/16 px
_CORNERS = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)])


@dataclass(frozen=True, slots=True)
class Shapes:
    """Outlines of one class.

    Attributes:
        name, color: of the class.
        count: how many there are of it, for the caption.
        vertices: ``(V, 2)`` float64, x and y of all rings end to end, in level-0 pixels.
        offsets: ``(R + 1,)``; ring ``r`` is ``vertices[offsets[r]:offsets[r + 1]]``.
    """

    name: str
    color: tuple[int, int, int]
    count: int
    vertices: NDArray[np.float64]
    offsets: NDArray[np.int64]


def shapes_of(
    rings: Rings, class_index: NDArray[np.int64], classes: ClassTree, counts: Sequence[int]
) -> list[Shapes]:
    """Outlines by class; `class_index` ``(N,)`` is of their pieces, `counts` are those of the caption."""
    shapes = []
    pieces = np.repeat(class_index, np.diff(rings.piece_offsets))  # by ring
    lengths = np.diff(rings.ring_offsets)
    for index, (end, count) in enumerate(zip(classes.ends, counts, strict=True)):
        chosen = pieces == index
        vertices = rings.vertices[np.repeat(chosen, lengths)]
        offsets = np.append(0, np.cumsum(lengths[chosen])).astype(np.int64)
        shapes.append(Shapes(end.name, end.color, count, vertices, offsets))
    return shapes


def draw(
    result: RegionResult,
    shapes: Sequence[Shapes],
    image_rgb: NDArray[np.uint8],
    *,
    downsample: float,
    typical_l0: float,
) -> NDArray[np.uint8]:
    """Thin outlines over `image_rgb`, and below it a strip that explains them.

    Args:
        shapes: what is drawn, each over those before.
        image_rgb: uint8 RGB ``(H, W, 3)`` that covers ``result.region_l0``; it is not changed.
        downsample: level-0 pixels per pixel of `image_rgb`.
        typical_l0: usual diameter of a shape, in level-0 pixels.

    Returns:
        uint8 RGB ``(H + h, max(W, MIN_WIDTH), 3)``. Rows ``0..H`` and columns ``0..W`` are the image: nothing
        but outlines lies on the tissue.

    Raises:
        ValueError: when the image is not uint8 RGB, or does not cover the region at `downsample`.
    """
    picture = Overlay(result, image_rgb, downsample=downsample, are_large=typical_l0 / downsample >= LARGE_CELL_PX)
    picture.add(shapes)
    return picture.page([(shape.name, shape.color, shape.count) for shape in shapes])


class Overlay:
    """A picture to which the outlines of a region are added in any number of portions.

    Args:
        result: the region.
        image_rgb, downsample: as for `draw`.
        are_large: whether shapes are typically `LARGE_CELL_PX` wide in the image.

    Raises:
        ValueError: as `draw` does.
    """

    def __init__(
        self, result: RegionResult, image_rgb: NDArray[np.uint8], *, downsample: float, are_large: bool
    ) -> None:
        _require_region(result, image_rgb, downsample)
        self._result = result
        self._outlined = np.array(image_rgb, order="C")
        self._downsample = downsample
        # OpenCV's antialiased line of 1 px is too faint to tell colours on stained nuclei and its line of 2 px
        # puts down 4 px of ink. Lines of 1 px at four corners put down 2.2 px when 0.5 px apart, 2.7 px when 1 px.
        self._corners_px = _CORNERS * (0.5 if are_large else 0.25)

    def add(self, shapes: Sequence[Shapes]) -> None:
        """Draw `shapes`, each over those before."""
        for shape in shapes:
            for corner_px in self._corners_px if len(shape.vertices) else ():
                rings = _rings(self._result, shape, self._downsample, corner_px)
                cv2.polylines(self._outlined, rings, True, shape.color, 1, cv2.LINE_AA, _SHIFT_BITS)

    def page(self, classes: Sequence[Counted]) -> NDArray[np.uint8]:
        """The picture and the strip that explains it; see `draw`."""
        height, width = self._outlined.shape[:2]
        um_per_px = self._result.mpp * self._downsample
        strip = caption(classes, width=max(width, MIN_WIDTH), um_per_px=um_per_px)
        page = np.full((height + len(strip), strip.shape[1], 3), PAPER, np.uint8)
        page[:height, :width] = self._outlined
        page[height:] = strip
        self._outlined = page[:height, :width]  # one of the two is enough: they are large
        return page


def _require_region(result: RegionResult, image_rgb: NDArray[np.uint8], downsample: float) -> None:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(f"An overlay needs uint8 RGB (H, W, 3), not {image_rgb.dtype} {image_rgb.shape}.")
    region = result.region_l0
    expected = (region.height / downsample, region.width / downsample)
    if any(abs(have - want) > 1 for have, want in zip(image_rgb.shape[:2], expected, strict=True)):
        raise ValueError(f"An image of {image_rgb.shape} does not cover {region} at downsample {downsample}.")


def _rings(
    result: RegionResult, shape: Shapes, downsample: float, moved_px: NDArray[np.float64]
) -> list[NDArray[np.int32]]:
    """Outlines in OpenCV's fixed-point pixels, whose whole numbers are pixel centres."""
    corner_l0 = np.array([result.region_l0.x, result.region_l0.y])
    points_px = (shape.vertices - corner_l0) / downsample - 0.5 + moved_px
    fixed = np.rint(points_px * 2**_SHIFT_BITS).astype(np.int32)
    return split(fixed, shape.offsets)
