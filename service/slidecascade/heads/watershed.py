"""Flooding of a landscape from markers.

Every pixel goes up to the highest of its neighbours, again and again, until it comes to a marker or to a top: that
is done for all pixels by pointer jumping (Wyllie, 1979). Tops without a marker then join the neighbour over the
highest pass, all at once and again until each has a marker or no neighbour (Boruvka's rounds of a minimum spanning
forest rooted in the markers; Cousty et al. 2009). Among equals the first in reading order is taken, so that the
result is the same wherever the image starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.heads.labels import pixels_of

_PLACE_BITS = 40
_LAST_PLACE = (1 << _PLACE_BITS) - 1

# Rows and columns to the neighbours.
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
    # Framed, so that every pixel has all its neighbours. Keys are 0 outside the mask; the higher of two pixels has
    # the higher key, or else the first in reading order: so ways on flat ground never lead in a circle.
    frame = width + 2
    places = pixels + (2 * (pixels // width) + frame + 1)
    keys = np.zeros((height + 2) * frame, np.int64)
    keys[places] = (landscape.ravel()[pixels].astype(np.int64) + 1 << _PLACE_BITS) | (_LAST_PLACE - places)
    owner = _tops(keys, places, markers.ravel()[pixels], frame)
    labels.ravel()[pixels] = _joined(keys, places, owner, frame)
    return labels


def _tops(
    keys: NDArray[np.int64], places: NDArray[np.intp], marker: NDArray[np.int32], frame: int
) -> NDArray[np.int64]:
    """For each pixel the label of its marker, or else a number of its top, which is negative."""
    best = keys.take(places)
    for down, right in _AROUND:
        np.maximum(best, keys.take(places + (down * frame + right)), out=best)
    index = np.zeros(len(keys), np.int32)
    index[places] = np.arange(len(places), dtype=np.int32)
    following = index.take(_LAST_PLACE - (best & _LAST_PLACE))
    roots = np.flatnonzero(marker)
    following[roots] = roots
    while True:
        further = following.take(following)
        if np.array_equal(further, following):
            break
        following = further
    is_top = (following == np.arange(len(places))) & (marker == 0)
    numbers = np.where(is_top, np.cumsum(is_top) - 1 - np.count_nonzero(is_top), marker)
    owner: NDArray[np.int64] = numbers.take(following)
    return owner


def _joined(
    keys: NDArray[np.int64], places: NDArray[np.intp], owner: NDArray[np.int64], frame: int
) -> NDArray[np.int64]:
    """`owner` with tops without a marker joined to one that has one, 0 where none can be reached."""
    unmarked = -int(owner.min(initial=0))
    if not unmarked:
        return owner
    dense = np.zeros(len(keys), np.int64)
    dense[places] = owner
    chosen = owner < 0
    here, own = places[chosen], owner[chosen]
    passes = []
    for down, right in _AROUND:
        beside = here + (down * frame + right)
        other = dense.take(beside)
        found = np.flatnonzero((other != 0) & (other != own))
        # A pass is as high as the lower of its two pixels, and of equals the one with the higher other pixel.
        ahead, there = keys[here[found]], keys[beside[found]]
        heights = np.minimum(ahead, there), np.maximum(ahead, there)
        passes.append(np.stack([own[found], other[found], *heights], axis=1))
    edges = np.concatenate(passes)
    edges = edges[np.lexsort((-edges[:, 3], -edges[:, 2]))][:, :2]
    ends = np.arange(-unmarked, int(owner.max(initial=0)) + 1)
    while True:
        both = ends[edges + unmarked]
        edges = both[(both[:, 0] != both[:, 1]) & (both.min(axis=1) < 0)]
        if not len(edges):
            break
        ends = _one_round(edges, unmarked, len(ends))[ends + unmarked]
    joined: NDArray[np.int64] = np.maximum(ends, 0)[owner + unmarked]
    return joined


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
