"""Steps on label images that several heads share.

Label images are ``(H, W)``, 0 is background. Each step is local: what becomes of an object depends on the pixels
around it and on nothing further away.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

LabelImage = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

# OpenCV's connected components come in raster order of their first pixel with this algorithm only; others number
# by 2x2 blocks, so that the order would depend on where a tile starts.
_RASTER_ORDER = cv2.CCL_WU


@dataclass(frozen=True, slots=True)
class Pieces:
    """A label image int32 ``(H, W)`` of `count` numbers, 0 included."""

    labels: npt.NDArray[np.int32]
    count: int

    def dense(self) -> LabelImage:
        """A copy in the small type that morphology wants.

        16 bits number the cells of any usual tile, float32 16 million exactly.
        """
        return self.labels.astype(np.uint16) if self.count < 2**16 else self.labels.astype(np.float32)


def grey_level(probability: float) -> int:
    """The lowest grey level of a map that reaches the probability; level 0 is no evidence and never does."""
    return max(1, round(255 * probability))


def grey_levels(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``round(255 * p)`` of probabilities of any shape; what lies beyond 0 to 1 is clipped."""
    scaled = np.clip(probabilities, 0, 1)
    scaled *= np.float32(255)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def at_least(probability_map: npt.NDArray[np.uint8], level: int) -> npt.NDArray[np.uint8]:
    """255 where the map reaches a grey level, else 0."""
    is_reached: npt.NDArray[np.uint8] = cv2.compare(probability_map, level, cv2.CMP_GE)
    return is_reached


def pieces(mask: npt.NDArray[np.uint8]) -> Pieces:
    """The connected pieces (8 neighbours) of a mask, in raster order."""
    count, found = cv2.connectedComponentsWithAlgorithm(mask, 8, cv2.CV_32S, _RASTER_ORDER)
    return Pieces(found, count)


def pixels_of(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Flat indices of the pixels of a mask of 0 and 255; ten times as fast as by the labels themselves."""
    return np.flatnonzero((mask & 1).view(np.bool_))


def fill_holes(labels: LabelImage) -> None:
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
    where = pixels_of(cv2.bitwise_and(cv2.compare(pieces, ground, cv2.CMP_NE), empty))
    piece = pieces.ravel()[where]
    where, piece = where[is_hole[piece]], piece[is_hole[piece]]
    lowest, highest = _neighbouring_labels(labels, where, piece, count)
    owner = np.where(highest == lowest, highest, 0).astype(labels.dtype)
    labels.ravel()[where] = owner[piece]


def _neighbouring_labels(
    labels: LabelImage, where: npt.NDArray[np.intp], piece: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The lowest and the highest label beside each of `count` pieces, none of which is at the image's edge.

    Args:
        where, piece: flat index and piece of each of their pixels.
    """
    top = 2.0**24
    lowest, highest = np.full(count, top), np.zeros(count)
    flat, width = labels.ravel(), labels.shape[1]
    for offset in (-width, -1, 1, width):
        beside = flat[where + offset]
        np.maximum.at(highest, piece, beside)
        np.minimum.at(lowest, piece, np.where(beside > 0, beside, top))
    return lowest, highest


def without_specks(labels: LabelImage, count: int, min_area_px: float) -> npt.NDArray[np.int32]:
    """Drop cells below the area and close the gaps in the numbering."""
    where = pixels_of(cv2.compare(labels, 0, cv2.CMP_GT))
    numbers = labels.ravel()[where].astype(np.int32)
    keep = np.bincount(numbers, minlength=count) >= min_area_px
    keep[0] = True
    dense = np.zeros(labels.shape, np.int32)
    dense.ravel()[where] = np.where(keep, np.cumsum(keep) - 1, 0).astype(np.int32)[numbers]
    return dense
