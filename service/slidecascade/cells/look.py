"""What a segmenter sees in a box, and which of it would be the same seen from anywhere.

A network's maps are exact where the whole receptive field was read: bit for bit those of any other read box. So
only that part is decoded. In it the foreground falls into pieces (pixels that share a side or a corner are
connected), and heads are local: which cells there are in a piece depends on the maps in it and two pixels around
it, and on nothing further away. A piece that ends inside the box is therefore decided; one that may go on beyond
is not, and needs another look from further away.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import outlines
from slidecascade.cells.decoding import decode
from slidecascade.cells.heads.labels import at_least, grey_level, pixels_of
from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box
from slidecascade.models.spec import SegmenterSpec

SMOOTHING_PX = 2
"""How far around a piece heads look: the radius of the `unet` head's smoothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """Objects and pieces in `box`, in pixels of the segmenter's grid.

    Attributes:
        labels: ``(H, W)`` int32, the objects; 0 is background.
        foreground: ``(H, W)`` uint8, the foreground map.
        pieces: ``(H, W)`` int32, the connected pieces of the foreground; 0 is background.
        piece_boxes: ``(P, 4)`` x, y, right and bottom of every piece in the grid's pixels, the background first.
        box: what is shown.
        inner: the part of `box` in which a piece must lie to be decided; it ends short of those sides beyond which
            the slide goes on.
        max_cell_px: objects with a longer side are dropped.
    """

    labels: NDArray[np.int32]
    foreground: NDArray[np.uint8]
    pieces: NDArray[np.int32]
    piece_boxes: NDArray[np.int64]
    box: Box
    inner: Box
    max_cell_px: int

    @property
    def decided(self) -> NDArray[np.bool_]:
        """``(P,)``: which pieces lie in `inner`; the background counts as one that does not."""
        low, high = self.piece_boxes[:, :2], self.piece_boxes[:, 2:]
        inside = (low >= (self.inner.x, self.inner.y)) & (high <= (self.inner.right, self.inner.bottom))
        decided: NDArray[np.bool_] = inside.all(axis=1)
        decided[0] = False
        return decided

    def undecided_in(self, near: Box) -> NDArray[np.int64]:
        """The pieces that are not decided and whose boxes meet `near`."""
        low, high = self.piece_boxes[:, :2], self.piece_boxes[:, 2:]
        meets = ((low < (near.right, near.bottom)) & (high > (near.x, near.y))).all(axis=1)
        meets[0] = False
        return np.flatnonzero(meets & ~self.decided)

    def piece_box(self, piece: int) -> Box:
        x, y, right, bottom = self.piece_boxes[piece].tolist()
        return Box(x, y, right - x, bottom - y)

    def place_in(self, piece: int) -> tuple[int, int]:
        """The first pixel of `piece`, x and y in the grid."""
        box = self.piece_box(piece)
        part = self.pieces[
            box.y - self.box.y : box.bottom - self.box.y, box.x - self.box.x : box.right - self.box.x
        ]
        row, column = divmod(int((part == piece).argmax()), box.width)
        return box.x + column, box.y + row

    def piece_at(self, place: tuple[int, int]) -> int:
        """The piece that holds a pixel of the grid; 0 where none does, or where nothing is shown."""
        x, y = place[0] - self.box.x, place[1] - self.box.y
        inside = 0 <= x < self.box.width and 0 <= y < self.box.height
        return int(self.pieces[y, x]) if inside else 0

    def cells(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        """The cells of the pieces `wanted` ``(P,)`` whose centroid lies in `reach`, in pixels of the grid.

        Objects that a side of the box cuts are none: in a decided piece there are no such.
        """
        measures = outlines.measure(self.labels, self.foreground, origin=(self.box.x, self.box.y))
        keep = reach.contains(measures.centroids) & (measures.areas >= min_area_px)
        keep[self._on_cut_sides() - 1] = False
        if not wanted[1:].all():
            keep &= wanted[self._piece_of_labels(len(keep))]
        found = outlines.trace(self.labels, measures, keep)
        return found.take(found.extents.max(axis=1, initial=0.0) <= self.max_cell_px)

    def _piece_of_labels(self, count: int) -> NDArray[np.int64]:
        """``(count,)``: the piece each object lies in."""
        where = pixels_of(cv2.compare(self.pieces, 0, cv2.CMP_GT))
        found = np.zeros(count + 1, np.int64)
        found[self.labels.ravel()[where]] = self.pieces.ravel()[where]
        return found[1:]

    def _on_cut_sides(self) -> NDArray[np.int32]:
        """Objects on those sides of the box beyond which the slide goes on."""
        box, inner = self.box, self.inner
        sides = [
            self.labels[:, 0] if inner.x > box.x else None,
            self.labels[:, -1] if inner.right < box.right else None,
            self.labels[0] if inner.y > box.y else None,
            self.labels[-1] if inner.bottom < box.bottom else None,
        ]
        there = [np.zeros(1, np.int32), *(side for side in sides if side is not None)]
        return np.unique(np.concatenate(there))[1:]  # less the background


def look_at(
    maps: NDArray[np.uint8],
    read: Box,
    extent: Box,
    *,
    segmenter: SegmenterSpec,
    foreground: float,
    receptive_px: int,
    min_area_px: float,
    max_cell_px: int,
) -> Look:
    """Decode a segmenter's `maps` ``(H, W, C)`` uint8 of the box `read`, as far as they are exact.

    Args:
        read: what the network was given, in pixels of the grid; its sides lie in `extent`, or less than a stride
            beyond.
        extent: the slide.
        foreground: probability from which a pixel belongs to an object.
        receptive_px: how far from a side of `read` the maps depend on where it lies; at the slide's own edge every
            read box ends in the same place, so there they are exact.
        min_area_px, max_cell_px: objects of fewer pixels, or with a longer side, are dropped.
    """
    cut = (read.x > extent.x, read.y > extent.y, read.right < extent.right, read.bottom < extent.bottom)
    box = _shrunk(read, cut, receptive_px)
    left, top = box.x - read.x, box.y - read.y
    shown = np.ascontiguousarray(maps[top : top + box.height, left : left + box.width])
    # Beyond the slide the pixels were mirror images.
    shown[max(0, extent.bottom - box.y) :] = 0
    shown[:, max(0, extent.right - box.x) :] = 0
    labels = decode(
        {"maps": shown}, segmenter.head, segmenter.options, foreground=foreground, min_area_px=min_area_px
    )
    seen = at_least(cv2.extractChannel(shown, 0), grey_level(foreground))
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=8, ltype=cv2.CV_32S)
    low = stats[:, :2].astype(np.int64) + np.array([box.x, box.y])
    return Look(
        labels=labels,
        foreground=np.ascontiguousarray(shown[:, :, 0]),
        pieces=np.asarray(pieces, np.int32),
        piece_boxes=np.concatenate([low, low + stats[:, 2:4]], axis=1),
        box=box,
        inner=_shrunk(box, cut, SMOOTHING_PX),
        max_cell_px=max_cell_px,
    )


def _shrunk(box: Box, cut: tuple[bool, bool, bool, bool], margin: int) -> Box:
    """`box` less a margin on its cut sides: left, top, right, bottom."""
    left, top, right, bottom = (margin if is_cut else 0 for is_cut in cut)
    return Box(box.x + left, box.y + top, max(1, box.width - left - right), max(1, box.height - top - bottom))
