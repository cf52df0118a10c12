"""Pairs of places that are close to each other, and the image that joins them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Size

# The own square and half of those around it: every pair of squares that touch is looked at once.
_AHEAD = ((0, 0), (1, 0), (-1, 1), (0, 1), (1, 1))


def pairs_within(
    points: NDArray[np.int64], radii: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pairs of circles that overlap.

    Args:
        points: ``(N, 2)`` x and y of their centres.
        radii: ``(N,)``.

    Returns:
        Two indices for each pair, in an order that depends on the numbers of the circles alone.
    """
    if len(points) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    side = max(1, int(np.ceil(2 * radii.max())))
    squares = (points - points.min(axis=0)) // side + 1
    columns = int(squares[:, 0].max()) + 2
    keys = squares[:, 1] * columns + squares[:, 0]
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    firsts, seconds = [], []
    for dx, dy in _AHEAD:
        beside = sorted_keys + dy * columns + dx
        starts = np.searchsorted(sorted_keys, beside, side="left")
        ends = np.searchsorted(sorted_keys, beside, side="right")
        if (dx, dy) == (0, 0):
            starts = np.arange(1, len(order) + 1)
        counts = ends - starts
        first = np.repeat(np.arange(len(order)), counts)
        second = np.arange(len(first)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        a, b = order[first], order[second]
        apart = ((points[a] - points[b]) ** 2).sum(axis=1)
        close = apart < (radii[a] + radii[b]) ** 2
        firsts.append(a[close])
        seconds.append(b[close])
    low, high = np.concatenate(firsts), np.concatenate(seconds)
    low, high = np.minimum(low, high), np.maximum(low, high)
    order = np.lexsort((high, low))
    return low[order], high[order]


def lines(size: Size, *pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.uint8]:
    """``(H, W)``: 255 on the lines between pixels, each pair given as two arrays ``(N, 2)`` of x and y; else 0."""
    image = np.zeros((size.height, size.width), np.uint8)
    ends = np.concatenate([np.stack(pair, axis=1) for pair in pairs])
    cv2.polylines(image, list(ends.astype(np.int32)), False, 255, 1)
    return image
