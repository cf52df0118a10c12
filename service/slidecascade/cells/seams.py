"""The net under ownership: cells that two tiles saw differently where they meet.

Ownership by centroid is exact when two tiles see the same mask. A network's last bit may differ between two
tilings and move a centroid over a seam by a pixel; then both tiles own the cell, or neither. So every tile also
hands over cells whose centroid lies just outside its core, and here each of them is kept only if no other tile
owns it. Cells away from seams are never looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MARGIN_PX = 4
"""How far outside its core a tile still hands over cells, in pixels of the segmenter's grid."""


def settle(
    centroids: NDArray[np.float64],
    areas: NDArray[np.float64],
    *,
    tile_index: NDArray[np.int64],
    owned: NDArray[np.bool_],
    near_seam: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which cells to keep, so that each is there once.

    Args:
        centroids: ``(N, 2)``, in any one frame.
        areas: ``(N,)`` in that frame's square pixels.
        tile_index: ``(N,)`` the tile that found the cell.
        owned: ``(N,)`` whether the centroid lies in that tile's core.
        near_seam: ``(N,)`` whether the centroid lies within twice `MARGIN_PX` of a seam.

    Returns:
        ``(N,)`` mask. Of two cells of different tiles with centroids closer than half the smaller one's radius
        the owned one is kept, or else that of the first tile; the result does not depend on the order of cells.
    """
    keep = np.ones(len(centroids), np.bool_)
    near = np.flatnonzero(near_seam)
    if len(near) < 2:
        return keep
    radii = np.sqrt(areas[near] / np.pi)
    first, second = _pairs_within(centroids[near], 0.5 * float(radii.max()))
    distance = np.hypot(*(centroids[near[first]] - centroids[near[second]]).T)
    same = (distance < 0.5 * np.minimum(radii[first], radii[second])) & (
        tile_index[near[first]] != tile_index[near[second]]
    )
    a, b = near[first[same]], near[second[same]]
    a_first = np.where(owned[a] == owned[b], tile_index[a] < tile_index[b], owned[a])
    keep[np.where(a_first, b, a)] = False
    return keep


def _pairs_within(points: NDArray[np.float64], reach: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All index pairs whose x and y differ by at most `reach` (candidates for a distance test)."""
    order = np.argsort(points[:, 0], kind="stable")
    xs = points[order, 0]
    # For each point, the points after it in x order that are within reach.
    ends = np.searchsorted(xs, xs + reach, side="right")
    counts = ends - np.arange(len(xs)) - 1
    left = np.repeat(np.arange(len(xs)), counts)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    close = np.abs(points[order[left], 1] - points[order[right], 1]) <= reach
    return order[left[close]], order[right[close]]
