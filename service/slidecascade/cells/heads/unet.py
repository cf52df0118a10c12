"""Foreground and interior maps to cell instances: a seeded watershed, flooded in two levels.

The idea is the watershed by flooding from markers of Meyer and Beucher (1990) with two broad levels: every seed
(a connected piece of the interior map above a threshold) grows over the foreground, first where the interior map
is high, then over the rest, so that touching cells meet in the valley between them. The steps are dilations of
the whole label image. That makes the result local: which cell a pixel belongs to depends on the maps around that
cell and on nothing further away, so overlapping tiles agree where they overlap.
"""

import cv2
import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

_SMOOTHING_PX = 1.2

# The interior map falls from the seed threshold to 0 across a cell's rim: the part above half the threshold is
# flooded first, then the rest of the foreground, each at most so many pixels far.
_UPPER_LEVEL = 0.5
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
) -> npt.NDArray[np.int32]:
    """Turn a U-Net's maps into a label image.

    Args:
        maps: ``(H, W, 2)`` uint8, ``round(255 * p)`` of [foreground, interior].
        foreground: Probability in 0 to 1 from which a pixel may belong to a cell.
        seed: Interior probability in 0 to 1 from which a pixel belongs to a seed.
        min_area_px: Cells of fewer pixels are dropped.

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
    seeds = cv2.bitwise_and(_at_least(interior, seed), is_cell)
    count, found = cv2.connectedComponentsWithAlgorithm(seeds, 8, cv2.CV_32S, _RASTER_ORDER)
    if count == 1:
        return np.zeros(is_cell.shape, np.int32)
    # Dilation wants a small dense type: 16 bits number the cells of any usual tile, float32 16 million exactly.
    labels = found.astype(np.uint16 if count < 2**16 else np.float32)
    _grow(labels, cv2.bitwise_and(_at_least(interior, _UPPER_LEVEL * seed), is_cell), _UPPER_STEPS)
    _grow(labels, is_cell, _RIM_STEPS)
    _fill_holes(labels)
    return _without_specks(labels, count, min_area_px)


def _at_least(probability_map: npt.NDArray[np.uint8], threshold: float) -> npt.NDArray[np.uint8]:
    """255 where the probability reaches the threshold; grey level 0 is no evidence and never does."""
    is_reached: npt.NDArray[np.uint8] = cv2.compare(
        probability_map, float(max(1, round(255 * threshold))), cv2.CMP_GE
    )
    return is_reached


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
