"""Squares around cells, cut out and resized for a classifier."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box


def corners_of(centroids: NDArray[np.float64], size_px: int) -> NDArray[np.int64]:
    """Top left pixels ``(N, 2)`` of the crops: the whole pixel nearest to ``centroid - size / 2``."""
    corners: NDArray[np.int64] = np.floor(centroids - size_px / 2 + 0.5).astype(np.int64)
    return corners


def bounds_of(corners: NDArray[np.int64], size_px: int) -> Box:
    """The smallest box that holds all crops of at least one cell."""
    low, high = corners.min(axis=0), corners.max(axis=0) + size_px
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def cut(
    patch: NDArray[np.uint8], corners: NDArray[np.int64], *, size_px: int, height_px: int, width_px: int
) -> NDArray[np.uint8]:
    """Crops of ``size_px`` squared, resized bilinearly to ``(N, height_px, width_px, 3)``.

    Args:
        patch: ``(H, W, 3)`` uint8, which holds all the crops (see `bounds_of`).
        corners: ``(N, 2)`` top left pixels in the patch. Whole numbers, found in the grid's own frame: rounded
            after a patch's origin was subtracted, a tie could fall one way in one tile and another in the next.
        size_px, height_px, width_px: side of the crop, and the size it is resized to.

    The samples are those of ``cv2.resize`` with ``INTER_LINEAR`` on each crop by itself.

    Raises:
        ValueError: when a crop is not inside the patch.
    """
    if len(corners) and (corners.min() < 0 or (corners.max(axis=0) + size_px > patch.shape[1::-1]).any()):
        raise ValueError("A crop reaches outside the patch: read the box that `bounds_of` gives.")
    # Every window of the patch as a view, one row of pixels flat: picking windows then copies whole rows.
    rows = np.ascontiguousarray(patch).reshape(len(patch), -1)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (size_px, 3 * size_px))[:, ::3]
    crops = windows[corners[:, 1], corners[:, 0]].reshape(-1, size_px, size_px, 3)
    return crops if height_px == width_px == size_px else _resized(crops, height_px, width_px)


def _resized(crops: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Square crops ``(N, S, S, 3)`` resized bilinearly, all of them in one call: stacked one under the other.

    Stacking keeps every sample where it would be in its own crop, when rows of the output lie whole binary
    fractions of a row apart (54 px to 72 px: 3/4): OpenCV keeps positions as float32, exact far down the stack
    then. Only samples above a crop's first row centre or below its last one see the neighbour; they are that first
    or last row itself, and are put right.
    """
    count, size_px = len(crops), crops.shape[1]
    if not count:
        return np.empty((0, height_px, width_px, 3), np.uint8)
    if not _is_binary_fraction(size_px, height_px):
        return _resized_one_by_one(crops, height_px, width_px)
    stack = crops.reshape(count * size_px, size_px, 3)
    resized = cv2.resize(stack, (width_px, count * height_px), interpolation=cv2.INTER_LINEAR)
    out: NDArray[np.uint8] = resized.reshape(count, height_px, width_px, 3)
    rows = (np.arange(height_px) + 0.5) * (size_px / height_px) - 0.5
    for outside, row in ((rows < 0, 0), (rows > size_px - 1, size_px - 1)):
        if outside.any():
            edge = np.ascontiguousarray(crops[:, row])
            out[:, outside] = cv2.resize(edge, (width_px, count), interpolation=cv2.INTER_LINEAR)[:, None]
    return out


def _is_binary_fraction(size_px: int, height_px: int) -> bool:
    """Whether ``size_px / height_px``, and half of it, are exact to the 9 bits OpenCV keeps far down a stack."""
    denominator = height_px // math.gcd(size_px, height_px)
    return denominator <= 2**8 and denominator & (denominator - 1) == 0


def _resized_one_by_one(crops: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """As `_resized`, for any ratio: 10 us a crop; as channels of one image they take a hundred times as long."""
    out = np.empty((len(crops), height_px, width_px, 3), np.uint8)
    for crop, target in zip(crops, out, strict=True):
        cv2.resize(crop, (width_px, height_px), dst=target, interpolation=cv2.INTER_LINEAR)
    return out
