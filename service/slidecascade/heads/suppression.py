"""Which of several objects that overlap are kept: the best of every neighbourhood.

Greedy suppression goes through all objects by falling score and drops each that overlaps one it kept (as in
StarDist, Weigert et al. 2020). The same is found here without an order over the whole image: an object is kept
once no better one that overlaps it is left, and drops those it overlaps; so what becomes of an object depends on
the objects that are joined to it by overlaps, and on no others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kept(rank: NDArray[np.intp], first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
    """``(N,)``: which objects are kept.

    Args:
        rank: ``(N,)`` a place for each, 0 the best; no two are equal.
        first, second: the pairs that overlap too much.
    """
    better = np.where(rank[first] < rank[second], first, second)
    worse = np.where(rank[first] < rank[second], second, first)
    count = len(rank)
    is_open, is_kept = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    while is_open.any():
        waits = np.zeros(count, np.bool_)
        waits[worse] = True
        chosen = is_open & ~waits
        is_kept |= chosen
        is_open &= ~chosen
        is_open[worse[chosen[better]]] = False
        left = is_open[better] & is_open[worse]
        better, worse = better[left], worse[left]
    return is_kept
