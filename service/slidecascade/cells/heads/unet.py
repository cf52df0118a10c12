"""Foreground and interior maps to cell instances: a seeded watershed, flooded in two levels.

The idea is the watershed by flooding from markers of Meyer and Beucher (1990) with two broad levels: every seed
grows over the foreground, first where the interior map is high, then over the rest, so that touching cells meet
in the valley between them. The steps are dilations of the whole label image.

A seed is a connected piece of the interior map above a threshold. Where the map has several peaks in one piece,
each of which rises by the `prominence` above the pass to the next, each is a seed: the h-maxima of Soille
(*Morphological Image Analysis*, 2003, section 6.3.4), found at a few levels.

All of it is local: which cell a pixel belongs to depends on the maps around that cell and its neighbours, and on
nothing further away, so overlapping tiles agree where they overlap.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

_SMOOTHING_PX = 1.2

# The interior map falls from the seed threshold to 0 across a cell's rim: the part above half the threshold is
# flooded first, then the rest of the foreground, each at most so many pixels far.
_UPPER_LEVEL = 0.5
# In grey levels: how finely a piece of the interior map is looked through for several peaks.
_LEVEL_STEP = 26
_UPPER_STEPS = 8
_RIM_STEPS = 20

# OpenCV's connected components come in raster order of their first pixel with this algorithm only; others number
# by 2x2 blocks, so that the order would depend on where a tile starts.
_RASTER_ORDER = cv2.CCL_WU


def decode(
    maps: npt.NDArray[np.uint8],
    *,
    foreground: float,
    seed: float,
    min_area_px: float,
    prominence: float = 1.0,
) -> npt.NDArray[np.int32]:
    """Turn a U-Net's maps into a label image.

    Args:
        maps: ``(H, W, 2)`` uint8, ``round(255 * p)`` of [foreground, interior].
        foreground: Probability in 0 to 1 from which a pixel may belong to a cell.
        seed: Interior probability in 0 to 1 from which a pixel belongs to a seed.
        min_area_px: Cells of fewer pixels are dropped.
        prominence: By how much, of 0 to 1, each of two peaks of the interior map must rise above the pass between
            them to be two seeds; at 1 a connected piece is one seed whatever its peaks.

    Returns:
        ``(H, W)`` int32 labels: 0 is background, cells are 1 to n in the raster order of their seeds.

    Raises:
        ValueError: The maps have another shape or type.
    """
    if maps.dtype != np.uint8 or maps.ndim != 3 or maps.shape[2] != 2:
        raise ValueError(f"Maps are {maps.dtype} {maps.shape}; the unet head wants uint8 (H, W, 2).")
    is_cell = _at_least(cv2.extractChannel(maps, 0), foreground)
    # Coarse chromatin dents the interior map; smoothed, a nucleus is less often split into several seeds.
    interior = cv2.GaussianBlur(cv2.extractChannel(maps, 1), (5, 5), _SMOOTHING_PX)
    seeds = _seeds(interior, is_cell, seed=seed, prominence=prominence)
    if seeds.count == 1:
        return np.zeros(is_cell.shape, np.int32)
    # Dilation wants a small dense type: 16 bits number the cells of any usual tile, float32 16 million exactly.
    labels: Labels = seeds.labels.astype(np.uint16) if seeds.count < 2**16 else seeds.labels.astype(np.float32)
    _grow(labels, cv2.bitwise_and(_at_least(interior, _UPPER_LEVEL * seed), is_cell), _UPPER_STEPS)
    _grow(labels, is_cell, _RIM_STEPS)
    _fill_holes(labels)
    return _without_specks(labels, seeds.count, min_area_px)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A label image of `count` numbers, 0 included."""

    labels: npt.NDArray[np.int32]
    count: int


def _pieces(interior: npt.NDArray[np.uint8], is_cell: npt.NDArray[np.uint8], level: int) -> _Pieces:
    """The connected pieces of the interior map from a grey level on."""
    mask = cv2.bitwise_and(cv2.compare(interior, level, cv2.CMP_GE), is_cell)
    count, labels = cv2.connectedComponentsWithAlgorithm(mask, 8, cv2.CV_32S, _RASTER_ORDER)
    return _Pieces(labels, count)


def _seeds(
    interior: npt.NDArray[np.uint8], is_cell: npt.NDArray[np.uint8], *, seed: float, prominence: float
) -> _Pieces:
    """The pieces of the interior map from `seed` on, those with several prominent peaks in parts.

    Whether a part stands for itself depends on it and the part beside it alone, not on how far a chain of parts
    goes on.
    """
    lowest, rise = _grey_level(seed), round(255 * prominence)
    seeds = _pieces(interior, is_cell, lowest)
    where = np.flatnonzero(seeds.labels)
    heights, count = interior.ravel()[where], seeds.count
    parents = seeds.labels.ravel()[where].astype(np.int64)
    is_split = False
    for level in range(lowest, 256 - rise, _LEVEL_STEP):
        parts = _pieces(interior, is_cell, level + _LEVEL_STEP)
        part = parts.labels.ravel()[where]
        peaks, owners = np.zeros(parts.count, np.uint8), np.zeros(parts.count, np.int64)
        np.maximum.at(peaks, part, heights)
        owners[part] = parents
        # The pass between parts that are one piece at `level` lies between it and the level of the parts.
        stands = (peaks >= level + rise) & (owners > 0)
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


def _renumbered(
    labels: npt.NDArray[np.int32], where: npt.NDArray[np.intp], numbers: npt.NDArray[np.int64], count: int
) -> _Pieces:
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
    return _Pieces(seeds, int(is_used.sum()))


def _at_least(probability_map: npt.NDArray[np.uint8], threshold: float) -> npt.NDArray[np.uint8]:
    """255 where the probability reaches the threshold; grey level 0 is no evidence and never does."""
    is_reached: npt.NDArray[np.uint8] = cv2.compare(probability_map, _grey_level(threshold), cv2.CMP_GE)
    return is_reached


def _grey_level(probability: float) -> int:
    return max(1, round(255 * probability))


def _grow(labels: Labels, allowed: npt.NDArray[np.uint8], steps: int) -> None:
    """Grow labels in place over the allowed pixels, one pixel a step; where two meet the higher number gets it."""
    assigned = cv2.countNonZero(labels)
    for step in range(steps):
        # Alternating neighbourhoods make the front an octagon rather than a diamond or a square.
        shape = cv2.MORPH_CROSS if step % 2 else cv2.MORPH_RECT
        reached = cv2.dilate(labels, cv2.getStructuringElement(shape, (3, 3)))
        free = cv2.bitwise_and(cv2.compare(labels, 0, cv2.CMP_EQ), allowed)
        cv2.copyTo(reached, free, labels)
        before, assigned = assigned, cv2.countNonZero(labels)
        # The larger neighbourhood gained nothing, so neither will any later step.
        if shape == cv2.MORPH_RECT and assigned == before:
            return


def _fill_holes(labels: Labels) -> None:
    """Give, in place, every background piece that a single cell encloses to that cell."""
    empty = cv2.compare(labels, 0, cv2.CMP_EQ)
    count, pieces = cv2.connectedComponentsWithAlgorithm(empty, 4, cv2.CV_32S, _RASTER_ORDER)
    # A piece at the image's edge may go on beyond it.
    edge = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    is_hole = np.bincount(edge, minlength=count) == 0
    is_hole[0] = False
    if not is_hole.any():
        return
    # The piece with most of the edge is nearly all of the background: leaving it out first saves the time.
    ground = int(np.bincount(edge[edge > 0]).argmax()) if edge.any() else 0
    where = np.flatnonzero(cv2.bitwise_and(cv2.compare(pieces, ground, cv2.CMP_NE), empty) > 0)
    piece = pieces.ravel()[where]
    where, piece = where[is_hole[piece]], piece[is_hole[piece]]
    lowest, highest = _neighbouring_labels(labels, empty, where, piece, count)
    owner = np.where(highest == lowest, highest, 0).astype(labels.dtype)
    labels.ravel()[where] = owner[piece]


def _neighbouring_labels(
    labels: Labels,
    empty: npt.NDArray[np.uint8],
    where: npt.NDArray[np.intp],
    piece: npt.NDArray[np.int32],
    count: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The lowest and the highest label next to each of `count` pieces, given the flat indices of their pixels."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    top = float(np.iinfo(np.uint16).max) if labels.dtype == np.uint16 else float(2**24)
    lowest, highest = np.full(count, top), np.zeros(count)
    np.maximum.at(highest, piece, cv2.dilate(labels, cross).ravel()[where])
    without_ground = labels.copy()
    without_ground[empty > 0] = top
    np.minimum.at(lowest, piece, cv2.erode(without_ground, cross).ravel()[where])
    return lowest, highest


def _without_specks(labels: Labels, count: int, min_area_px: float) -> npt.NDArray[np.int32]:
    """Drop cells below the area and close the gaps in the numbering."""
    areas = cv2.calcHist([labels], [0], None, [count], [0, count]).ravel()
    keep = areas >= min_area_px
    keep[0] = True
    numbers = labels.astype(np.int32)
    if keep.all():
        return numbers
    renumbered = np.where(keep, np.cumsum(keep) - 1, 0).astype(np.int32)
    dense: npt.NDArray[np.int32] = renumbered[numbers]
    return dense
