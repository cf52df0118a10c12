"""Flooding of a landscape from markers.

Every pixel goes up to the highest of its neighbours, again and again, until it comes to a marker or to a top: that is
done for all pixels by pointer jumping (Wyllie, 1979). Tops without a marker then join the neighbour over the highest
pass, all at once and again until each has a marker or no neighbour (Boruvka's rounds of a minimum spanning forest
rooted in the markers; Cousty et al. 2009). Among equals the first in reading order is taken, so that the result is
the same wherever the image starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.heads.labels import pixels_of

# Rows and columns to the neighbours, in reading order; the last four are looked at for passes.
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def flooded(
    landscape: NDArray[np.uint16], mask: NDArray[np.uint8], markers: NDArray[np.int32]
) -> NDArray[np.int32]:
    """The marker each pixel of a mask belongs to.

    Args:
        landscape: ``(H, W)``, higher is more inside.
        mask: ``(H, W)`` 255 where labels may lie, else 0.
        markers: ``(H, W)`` labels ``1..N`` in the mask, 0 elsewhere.

    Returns:
        ``(H, W)`` labels; 0 where a piece of the mask has no marker.
    """
    height, width = mask.shape
    pixels = pixels_of(mask)
    labels = np.zeros(mask.shape, np.int32)
    if not len(pixels):
        return labels
    # Framed, so that every pixel has all its neighbours; 0 is outside the mask, heights are at least 1.
    frame = width + 2
    framed = np.zeros((height + 2) * frame, np.int32)
    places = pixels + (2 * (pixels // width) + frame + 1)
    heights = landscape.ravel()[pixels].astype(np.int32) + 1
    framed[places] = heights
    marker = markers.ravel()[pixels]
    owner = _tops(framed, places, heights, marker, frame)
    labels.ravel()[pixels] = _joined(framed, places, owner, frame)
    return labels


def _tops(
    framed: NDArray[np.int32],
    places: NDArray[np.intp],
    heights: NDArray[np.int32],
    marker: NDArray[np.int32],
    frame: int,
) -> NDArray[np.int64]:
    """For each pixel the label of its marker, or else a number of its top: negative, ascending in reading order."""
    best, target = heights.copy(), places.copy()
    for down, right in _AROUND:
        beside = places + (down * frame + right)
        there = framed[beside]
        # On flat ground ways lead to the first pixel in reading order, and so never in a circle.
        is_better = (there > best) | ((there == best) & (beside < target))
        np.copyto(best, there, where=is_better)
        np.copyto(target, beside, where=is_better)
    index = np.zeros(len(framed), np.int32)
    index[places] = np.arange(len(places), dtype=np.int32)
    following = index[target]
    roots = np.flatnonzero(marker)
    following[roots] = roots
    while True:
        further = following[following]
        if np.array_equal(further, following):
            break
        following = further
    is_top = (following == np.arange(len(places))) & (marker == 0)
    numbers = np.where(is_top, np.cumsum(is_top) - 1 - np.count_nonzero(is_top), marker).astype(np.int64)
    owner: NDArray[np.int64] = numbers[following]
    return owner


def _joined(
    framed: NDArray[np.int32], places: NDArray[np.intp], owner: NDArray[np.int64], frame: int
) -> NDArray[np.int64]:
    """`owner` with tops without a marker joined to one that has one, 0 where none can be reached."""
    unmarked = -int(owner.min(initial=0))
    if not unmarked:
        return owner
    dense = np.zeros(len(framed), np.int64)
    dense[places] = owner
    passes = []
    for down, right in _AROUND[4:]:
        beside = places + (down * frame + right)
        other = dense[beside]
        is_pass = (other != 0) & (other != owner) & ((owner < 0) | (other < 0))
        chosen = np.flatnonzero(is_pass)
        level = np.minimum(framed[places[chosen]], framed[beside[chosen]])
        passes.append(np.stack([owner[chosen], other[chosen], level, chosen], axis=1))
    edges = np.concatenate(passes)
    # The highest pass first, of equals the first in reading order.
    edges = edges[np.lexsort((edges[:, 3], -edges[:, 2]))][:, :2]
    ends = np.arange(-unmarked, int(owner.max(initial=0)) + 1)
    while len(edges):
        both = ends[edges + unmarked]
        edges = both[(both[:, 0] != both[:, 1]) & (both.min(axis=1) < 0)]
        if not len(edges):
            break
        ends = _one_round(edges, unmarked, len(ends))[ends + unmarked]
    ends = np.where(ends < 0, 0, ends)
    found: NDArray[np.int64] = ends[owner + unmarked]
    return found


def _one_round(edges: NDArray[np.int64], unmarked: int, count: int) -> NDArray[np.int64]:
    """Where each number goes: every unmarked one over its first edge; circles of two end at the lower number."""
    goes = np.arange(-unmarked, count - unmarked)
    source = np.concatenate([edges[:, 0], edges[:, 1]])
    target = np.concatenate([edges[:, 1], edges[:, 0]])
    rank = np.tile(np.arange(len(edges)), 2)
    is_open = source < 0
    source, target, rank = source[is_open], target[is_open], rank[is_open]
    order = np.argsort(-rank, kind="stable")
    goes[source[order] + unmarked] = target[order]  # of several the last is kept, which has the least rank
    back = goes[goes + unmarked]
    numbers = np.arange(-unmarked, count - unmarked)
    goes = np.where((back == numbers) & (numbers < goes) & (numbers < 0) & (goes < 0), numbers, goes)
    while True:
        further = goes[goes + unmarked]
        if np.array_equal(further, goes):
            return goes
        goes = further
