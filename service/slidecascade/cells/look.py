"""What a segmenter sees in a box, and which of it would be the same seen from anywhere.

A network's maps are exact where the whole receptive field was read: bit for bit those of any other read box. So
only that part is decoded. In it an object is decided when nothing beyond the box can have had a part in it: it
ends inside, and so does every object that touches it. For heads are local: objects grow over the foreground from
seeds, and where two meet, who gets a pixel depends on both seeds, which lie inside the objects. An object that is
not decided needs another look from further away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import outlines
from slidecascade.cells.decoding import decode
from slidecascade.cells.heads.labels import at_least, grey_level
from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box
from slidecascade.models.spec import SegmenterSpec

Place = tuple[int, int]
"""A pixel of the grid: x and y."""

CELL_PX = 24
"""A nucleus is about so long: what an object that may go on beyond what is seen is expected to have there."""

SMOOTHING_PX = 2
"""How far around an object heads look: the radius of the `unet` head's smoothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """Objects in `box`, in pixels of the segmenter's grid.

    Attributes:
        labels: ``(H, W)`` int32, the objects ``1..N``; 0 is background.
        foreground: ``(H, W)`` uint8, the foreground map.
        unclaimed: ``(H, W)`` uint8, 255 where there is foreground of no object, else 0.
        box: what is shown.
        inner: the part of `box` an object must not leave to end inside; it ends short of those sides beyond which
            the slide goes on.
        max_cell_px: objects with a longer side are dropped.
    """

    labels: NDArray[np.int32]
    foreground: NDArray[np.uint8]
    unclaimed: NDArray[np.uint8]
    box: Box
    inner: Box
    max_cell_px: int

    @property
    def count(self) -> int:
        """How many objects there are."""
        return int(self.labels.max(initial=0))

    def cut(self) -> NDArray[np.bool_]:
        """``(N,)``: the objects that leave `inner`, and so may go on beyond the box."""
        cut = np.zeros(self.count + 1, np.bool_)
        for strip in self._outside_inner(self.labels):
            cut[strip] = True
        return cut[1:]

    def open(self) -> NDArray[np.bool_]:
        """``(N,)``: the objects that are not decided."""
        cut = self.cut()
        unclaimed = self._open_unclaimed()
        if not cut.any() and unclaimed is None:
            return cut
        mask = np.concatenate([[False], cut])[self.labels].view(np.uint8)
        if unclaimed is not None:
            mask |= unclaimed
        touched = np.zeros(self.count + 1, np.bool_)
        touched[self.labels[cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0]] = True
        return touched[1:] | cut

    def open_box(self, label: int) -> Box:
        """The box of an object, and a cell more on those sides where it may go on."""
        x, y, width, height = cv2.boundingRect((self.labels == label).view(np.uint8))
        left, top = x + self.box.x, y + self.box.y
        right, bottom = left + width, top + height
        left -= CELL_PX if left < self.inner.x else 0
        top -= CELL_PX if top < self.inner.y else 0
        right += CELL_PX if right > self.inner.right else 0
        bottom += CELL_PX if bottom > self.inner.bottom else 0
        return Box(left, top, right - left, bottom - top)

    def place_in(self, label: int) -> Place:
        """The pixel of an object that is nearest to the middle of what is seen of it."""
        rows, columns = np.nonzero(self.labels == label)
        nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
        return self.box.x + int(columns[nearest]), self.box.y + int(rows[nearest])

    def label_at(self, place: Place) -> int:
        """The object that holds a pixel of the grid; 0 where none does, or where nothing is shown."""
        x, y = place[0] - self.box.x, place[1] - self.box.y
        inside = 0 <= x < self.box.width and 0 <= y < self.box.height
        return int(self.labels[y, x]) if inside else 0

    def near(self, reach: Box) -> NDArray[np.bool_]:
        """``(N,)``: the objects with a pixel in `reach`."""
        shown = reach.clipped(self.box).shifted(-self.box.x, -self.box.y)
        near = np.zeros(self.count + 1, np.bool_)
        near[self.labels[shown.y : shown.bottom, shown.x : shown.right]] = True
        return near[1:]

    def cells(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        """The objects `wanted` ``(N,)`` whose centroid lies in `reach`, in pixels of the grid.

        Those longer than `max_cell_px` are none.
        """
        measures = outlines.measure(self.labels, self.foreground, origin=(self.box.x, self.box.y))
        keep = wanted & reach.contains(measures.centroids) & (measures.areas >= min_area_px)
        found = outlines.trace(self.labels.copy(), measures, keep)
        return found.take(found.extents.max(axis=1, initial=0.0) <= self.max_cell_px)

    def _open_unclaimed(self) -> NDArray[np.uint8] | None:
        """``(H, W)`` 1 where foreground of no object may go on beyond the box, else 0; None: nowhere."""
        if not any(strip.any() for strip in self._outside_inner(self.unclaimed)):
            return None
        count, pieces = cv2.connectedComponents(self.unclaimed, connectivity=8, ltype=cv2.CV_32S)
        is_open = np.zeros(count, np.bool_)
        for strip in self._outside_inner(np.asarray(pieces, np.int32)):
            is_open[strip] = True
        is_open[0] = False
        mask: NDArray[np.uint8] = is_open[pieces].view(np.uint8)
        return mask

    def _outside_inner(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        left, top = self.inner.x - self.box.x, self.inner.y - self.box.y
        right, bottom = self.inner.right - self.box.x, self.inner.bottom - self.box.y
        return [image[:top], image[bottom:], image[:, :left], image[:, right:]]


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
    return Look(
        labels=labels,
        foreground=np.ascontiguousarray(shown[:, :, 0]),
        unclaimed=cv2.bitwise_and(seen, cv2.compare(labels, 0, cv2.CMP_EQ)),
        box=box,
        inner=_shrunk(box, cut, SMOOTHING_PX),
        max_cell_px=max_cell_px,
    )


def _shrunk(box: Box, cut: tuple[bool, bool, bool, bool], margin: int) -> Box:
    """`box` less a margin on its cut sides: left, top, right, bottom."""
    left, top, right, bottom = (margin if is_cut else 0 for is_cut in cut)
    return Box(box.x + left, box.y + top, max(1, box.width - left - right), max(1, box.height - top - bottom))
