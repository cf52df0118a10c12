"""Squares around cells, cut out and resized for a classifier."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box

MAX_REMAP_ROWS = 32_000
"""``cv2.remap`` takes fewer than 2**15 rows of destination."""


def corners_of(centroids: NDArray[np.float64], size_px: int) -> NDArray[np.int64]:
    """Top left pixels ``(N, 2)`` of the crops: the whole pixel nearest to ``centroid - size / 2``."""
    corners: NDArray[np.int64] = np.floor(centroids - size_px / 2 + 0.5).astype(np.int64)
    return corners


def bounds_of(centroids: NDArray[np.float64], size_px: int) -> Box:
    """The smallest box that holds all crops of at least one cell."""
    corners = corners_of(centroids, size_px)
    low, high = corners.min(axis=0), corners.max(axis=0) + size_px
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def cut(
    patch: NDArray[np.uint8], centroids: NDArray[np.float64], *, size_px: int, height_px: int, width_px: int
) -> NDArray[np.uint8]:
    """Crops of ``size_px`` squared around `centroids`, resized bilinearly to ``(N, height_px, width_px, 3)``.

    Args:
        patch: ``(H, W, 3)`` uint8, which holds all the crops (see `bounds_of`).
        centroids: ``(N, 2)`` positions in the patch.
        size_px, height_px, width_px: side of the crop, and the size it is resized to.

    One ``cv2.remap`` cuts and resizes hundreds of crops; the samples are those of ``cv2.resize`` with
    ``INTER_LINEAR`` on each crop by itself.
    """
    corners = corners_of(centroids, size_px).astype(np.float32)
    xs = _sample_positions(size_px, width_px)
    ys = _sample_positions(size_px, height_px)
    crops = np.empty((len(corners), height_px, width_px, 3), np.uint8)
    at_once = max(1, MAX_REMAP_ROWS // height_px)
    for start in range(0, len(corners), at_once):
        part = corners[start : start + at_once]
        shape = (len(part), height_px, width_px)
        map_x = np.broadcast_to((part[:, 0, None] + xs)[:, None, :], shape).reshape(-1, width_px)
        map_y = np.broadcast_to((part[:, 1, None] + ys)[:, :, None], shape).reshape(-1, width_px)
        flat = cv2.remap(patch, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        crops[start : start + at_once] = flat.reshape(*shape, 3)
    return crops


def _sample_positions(size_px: int, out_px: int) -> NDArray[np.float32]:
    """`out_px` evenly spaced positions, counted in pixel centres, that stay inside the crop."""
    positions = (np.arange(out_px) + 0.5) * (size_px / out_px) - 0.5
    clamped: NDArray[np.float32] = np.clip(positions, 0, size_px - 1).astype(np.float32)
    return clamped
