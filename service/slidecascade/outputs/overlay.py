"""The region with its cells drawn in the colours of their classes."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.outputs.caption import MIN_WIDTH, PAPER, caption

MAX_SIDE_PX = 4096
"""Longest side of the region in ``overlay.png``: outlines stay visible, and it is 50 MB decoded at most."""

LARGE_CELL_PX = 20
"""Typical diameter in the image from which on outlines get a little wider."""

_SHIFT_BITS = 4  # OpenCV draws at 1/16 px
_CORNERS = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)])


def draw(analysis: Analysis, image_rgb: NDArray[np.uint8], *, downsample: float) -> NDArray[np.uint8]:
    """Thin outlines over `image_rgb`, and below it a strip that explains them.

    Args:
        image_rgb: uint8 RGB ``(H, W, 3)`` that covers ``analysis.region_l0``; it is not changed.
        downsample: level-0 pixels per pixel of `image_rgb`.

    Returns:
        uint8 RGB ``(H + h, max(W, MIN_WIDTH), 3)``. Rows ``0..H`` and columns ``0..W`` are the image: nothing
        but outlines lies on the tissue.

    Raises:
        ValueError: when the image is not uint8 RGB, or does not cover the region at `downsample`.
    """
    areas = analysis.instances.areas
    typical_px = float(2 * np.sqrt(np.median(areas) / np.pi) / downsample) if len(areas) else 0.0
    overlay = Overlay(analysis, image_rgb, downsample=downsample, are_large=typical_px >= LARGE_CELL_PX)
    overlay.add(analysis)
    return overlay.page(analysis.counts)


class Overlay:
    """A picture to which the outlines of a region's cells are added in as many portions as one likes.

    Args:
        analysis: of the region; its cells are not drawn before `add`.
        image_rgb, downsample: as for `draw`.
        are_large: whether cells are typically `LARGE_CELL_PX` wide in the image.

    Raises:
        ValueError: as `draw` does.
    """

    def __init__(
        self, analysis: Analysis, image_rgb: NDArray[np.uint8], *, downsample: float, are_large: bool
    ) -> None:
        _require_region(analysis, image_rgb, downsample)
        self._analysis = analysis
        self._outlined = np.array(image_rgb, order="C")
        self._downsample = downsample
        # OpenCV's antialiased line of 1 px is too faint to tell colours on stained nuclei and its line of 2 px
        # puts down 4 px of ink. Lines of 1 px at four corners put down 2.2 px when 0.5 px apart, 2.7 px when 1 px.
        self._corners_px = _CORNERS * (0.5 if are_large else 0.25)

    def add(self, analysis: Analysis) -> None:
        """Draw the outlines of `analysis`, which is of the same region."""
        for index, cell_class in enumerate(analysis.classes.ends):
            cells = analysis.instances.take(analysis.class_index == index)
            for corner_px in self._corners_px if len(cells) else ():
                rings = _rings(analysis, cells, self._downsample, corner_px)
                cv2.polylines(self._outlined, rings, True, cell_class.color, 1, cv2.LINE_AA, _SHIFT_BITS)

    def page(self, counts: Mapping[str, int]) -> NDArray[np.uint8]:
        """The picture and its strip, which names `counts`, the cells by class; see `draw`."""
        height, width = self._outlined.shape[:2]
        um_per_px = self._analysis.mpp * self._downsample
        strip = caption(self._analysis, counts, width=max(width, MIN_WIDTH), um_per_px=um_per_px)
        page = np.full((height + len(strip), strip.shape[1], 3), PAPER, np.uint8)
        page[:height, :width] = self._outlined
        page[height:] = strip
        return page


def _require_region(analysis: Analysis, image_rgb: NDArray[np.uint8], downsample: float) -> None:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(f"An overlay needs uint8 RGB (H, W, 3), not {image_rgb.dtype} {image_rgb.shape}.")
    region = analysis.region_l0
    expected = (region.height / downsample, region.width / downsample)
    if any(abs(have - want) > 1 for have, want in zip(image_rgb.shape[:2], expected, strict=True)):
        raise ValueError(f"An image of {image_rgb.shape} does not cover {region} at downsample {downsample}.")


def _rings(
    analysis: Analysis, cells: Instances, downsample: float, moved_px: NDArray[np.float64]
) -> list[NDArray[np.int32]]:
    """Outlines in OpenCV's fixed-point pixels, whose whole numbers are pixel centres."""
    corner_l0 = np.array([analysis.region_l0.x, analysis.region_l0.y])
    points_px = (cells.vertices - corner_l0) / downsample - 0.5 + moved_px
    fixed = np.rint(points_px * 2**_SHIFT_BITS).astype(np.int32)
    return np.split(fixed, cells.offsets[1:-1])
