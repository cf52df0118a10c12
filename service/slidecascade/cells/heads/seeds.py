"""Where cells start to grow: the connected pieces of an interior map, and the prominent peaks in a piece.

Where the map has several peaks in one piece, each of which rises by so much above the pass to the next, each is a
seed: the h-maxima of Soille (*Morphological Image Analysis*, 2003, section 6.3.4), found at a few levels.
"""

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.cells.heads.labels import Pieces, at_least, pieces

# In grey levels: how finely a piece is looked through for several peaks.
_LEVEL_STEP = 26


def prominent_pieces(
    interior: npt.NDArray[np.uint8], allowed: npt.NDArray[np.uint8], *, level: int, rise: int
) -> Pieces:
    """The pieces of a map from a grey level on, those with several prominent peaks in parts.

    Whether a part stands for itself depends on it and the part beside it alone, not on how far a chain of parts
    goes on.

    Args:
        interior: uint8 ``(H, W)``.
        allowed: uint8 ``(H, W)``, 255 where a piece may lie, else 0.
        level: grey level from which a pixel belongs to a piece.
        rise: by how many grey levels a peak must rise above the pass to the next peak; 255 or more: pieces stay
            whole.

    Returns:
        Labels in the raster order of first pixels.
    """
    seeds = _above(interior, allowed, level)
    where = np.flatnonzero(seeds.labels)
    heights, count = interior.ravel()[where], seeds.count
    parents = seeds.labels.ravel()[where].astype(np.int64)
    is_split = False
    for step in range(level, 256 - rise, _LEVEL_STEP):
        parts = _above(interior, allowed, step + _LEVEL_STEP)
        part = parts.labels.ravel()[where]
        peaks, owners = np.zeros(parts.count, np.uint8), np.zeros(parts.count, np.int64)
        np.maximum.at(peaks, part, heights)
        owners[part] = parents
        # The pass between parts that are one piece at `step` lies between it and the level of the parts.
        stands = (peaks >= step + rise) & (owners > 0)
        stands[0] = False
        splits = np.bincount(owners[stands], minlength=count) > 1
        if not splits.any():
            continue
        is_split = True
        chosen = stands & splits[owners]
        numbers = np.where(chosen, count - 1 + np.cumsum(chosen), 0)
        parents = np.where(splits[parents], numbers[part], parents)
        count += int(chosen.sum())
    if not is_split:
        return seeds
    return _renumbered(seeds.labels, where, parents, count)


def _above(interior: npt.NDArray[np.uint8], allowed: npt.NDArray[np.uint8], level: int) -> Pieces:
    return pieces(cv2.bitwise_and(at_least(interior, level), allowed))


def _renumbered(
    labels: npt.NDArray[np.int32], where: npt.NDArray[np.intp], numbers: npt.NDArray[np.int64], count: int
) -> Pieces:
    """`labels` with the pixels at the flat indices `where` numbered anew, in the raster order of first pixels."""
    first = np.full(count, labels.size, np.int64)
    np.minimum.at(first, numbers, where)
    first[0] = -1
    order = np.argsort(first, kind="stable")
    is_used = first[order] < labels.size
    rank = np.zeros(count, np.int32)
    rank[order[is_used]] = np.arange(is_used.sum())
    seeds = np.zeros_like(labels)
    seeds.ravel()[where] = rank[numbers]
    return Pieces(seeds, int(is_used.sum()))
