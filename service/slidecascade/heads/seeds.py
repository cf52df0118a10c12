"""Where cells start to grow: the connected pieces of an interior map, and the prominent peaks in a piece.

Where the map has several peaks in one piece, each of which rises by so much above the pass to the next, each is a
seed: the h-maxima of Soille (*Morphological Image Analysis*, 2003, section 6.3.4), found at a few levels.
"""

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.heads.labels import Pieces, at_least, pieces, pixels_of

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
    mask = cv2.bitwise_and(at_least(interior, level), allowed)
    seeds = pieces(mask)
    several = _with_several_peaks(seeds, mask, interior, lowest=level + rise)
    if not several.any():
        return seeds
    # Few pieces have several peaks: only those are looked through, close together.
    where = pixels_of(mask)
    where = where[several[seeds.labels.ravel()[where]]]
    heights, count = interior.ravel()[where], seeds.count
    together, places = _moved_together(where, heights, interior.shape[1])
    parents = seeds.labels.ravel()[where].astype(np.int64)
    is_split = False
    for step in range(level, 256 - rise, _LEVEL_STEP):
        parts = pieces(at_least(together, step + _LEVEL_STEP))
        part = parts.labels.ravel()[places]
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
    return _renumbered(seeds, pixels_of(mask), where, parents, count)


def _with_several_peaks(
    seeds: Pieces, mask: npt.NDArray[np.uint8], interior: npt.NDArray[np.uint8], *, lowest: int
) -> npt.NDArray[np.bool_]:
    """``(count,)`` which pieces have at least two maxima of a grey level: no others can have two peaks."""
    inside = cv2.bitwise_and(interior, mask)
    is_top = cv2.compare(inside, cv2.dilate(inside, np.ones((3, 3), np.uint8)), cv2.CMP_EQ)
    is_top = cv2.bitwise_and(is_top, at_least(inside, lowest))
    tops, where = pieces(is_top), pixels_of(is_top)
    owners = np.zeros(tops.count, np.int64)
    owners[tops.labels.ravel()[where]] = seeds.labels.ravel()[where]
    several: npt.NDArray[np.bool_] = np.bincount(owners[1:], minlength=seeds.count) > 1
    return several


def _moved_together(
    where: npt.NDArray[np.intp], heights: npt.NDArray[np.uint8], width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """An image of the heights without all but one of the empty rows and columns beside each other; 0 elsewhere.

    Pixels are neighbours in it if and only if they were before.

    Args:
        where: flat indices of the pixels in an image of that width.

    Returns:
        The image, and the flat indices of the pixels in it.
    """
    rows, columns = np.divmod(where, width)
    ranks = []
    for lines in (rows, columns):
        used = np.zeros(int(lines.max()) + 2, np.int64)
        used[lines] = 1
        # A line moves back by the empty lines before it, but for the first of each run of them.
        kept = used | np.append(0, used[:-1])
        ranks.append((np.cumsum(kept) - kept)[lines])
    height, width = (int(rank.max()) + 1 for rank in ranks)
    places = ranks[0] * width + ranks[1]
    image = np.zeros((height, width), np.uint8)
    image.ravel()[places] = heights
    return image, places


def _renumbered(
    seeds: Pieces,
    pixels: npt.NDArray[np.intp],
    where: npt.NDArray[np.intp],
    numbers: npt.NDArray[np.int64],
    count: int,
) -> Pieces:
    """`seeds` with the pixels at the flat indices `where` numbered anew, in the raster order of first pixels.

    `pixels` are the flat indices of all pixels of `seeds`, ascending.
    """
    labels = seeds.labels.copy()
    labels.ravel()[where] = numbers
    everywhere = labels.ravel()[pixels]
    first = np.full(count, labels.size, np.int64)
    first[everywhere[::-1]] = pixels[::-1]  # of several values for one index the last is kept
    first[0] = -1
    order = np.argsort(first, kind="stable")
    is_used = first[order] < labels.size
    rank = np.zeros(count, np.int32)
    rank[order[is_used]] = np.arange(is_used.sum())
    labels.ravel()[pixels] = rank[everywhere]
    return Pieces(labels, int(is_used.sum()))
