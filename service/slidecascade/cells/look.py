"""What a segmenter sees in a box, and which of it would be the same seen from anywhere.

A network's outputs are exact where the whole receptive field was read: bit for bit those of any other read box. So
only that part is decoded. In it something is decided when nothing beyond the box can have had a part in it; what
that means, its head promises (see `slidecascade.heads.head.ObjectHead`). What is decided or not is a unit:

- of a label image, an object. It is decided when it ends inside, and so does every object that touches it. For
  objects grow over their extent from seeds, and where two meet, who gets a pixel depends on both seeds, which lie
  inside the objects;
- of polygons, a connected piece of their extent with all polygons in it: which of them suppresses which may pass
  from one to the next through all of the piece.

A unit that is not decided needs another look from further away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import outlines, polygons
from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.objects import Labels, Objects
from slidecascade.models.tensors import BOX, OutputSpec, Tensors

Place = tuple[int, int]
"""A pixel of the grid: x and y."""

CELL_PX = 24
"""A nucleus is about so long: what an object that may go on beyond what is seen is expected to have there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a segmenter's outputs are decoded.

    Attributes:
        outputs: what the network states of its outputs.
        options: the head's, with the foreground that is asked for.
        mpp: micrometres per pixel of the grid.
        receptive_px: how far from a side of what was read the outputs depend on where it lies; at the slide's own
            edge every read box ends in the same place, so there they are exact.
        max_cell_px: objects with a longer side are dropped.
    """

    head: ObjectHead[Any]
    outputs: tuple[OutputSpec, ...]
    options: SegmenterOptions
    mpp: float
    receptive_px: int
    max_cell_px: int

    @property
    def reach_px(self) -> int:
        """How far around a unit the head looks; at least the pixel by which a unit is seen to end."""
        return max(1, self.head.reach_px(self.options, mpp=self.mpp))

    @property
    def stride(self) -> int:
        """Boxes that are decoded lie on multiples of it."""
        return math.lcm(*(output.stride for output in self.outputs))

    @property
    def margin_px(self) -> int:
        """What is read around a piece to decide it."""
        return -(-self.receptive_px // self.stride) * self.stride + self.reach_px


@dataclass(frozen=True, slots=True)
class Look:
    """Units in `box`, in pixels of the segmenter's grid.

    Attributes:
        objects: what the head found.
        units: ``(H, W)`` int32, the units ``1..N``; 0 is background.
        unclaimed: ``(H, W)`` uint8, 255 where objects may lie but no unit does, else 0.
        box: what is shown.
        inner: the part of `box` a unit must not leave to end inside; it ends short of those sides beyond which the
            slide goes on.
        max_cell_px: objects with a longer side are dropped.
    """

    objects: Objects
    units: NDArray[np.int32]
    unclaimed: NDArray[np.uint8]
    box: Box
    inner: Box
    max_cell_px: int

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.units.max(initial=0))

    def cut(self) -> NDArray[np.bool_]:
        """``(N,)``: the units that leave `inner`, and so may go on beyond the box."""
        cut = np.zeros(self.count + 1, np.bool_)
        for strip in self._outside_inner(self.units):
            cut[strip] = True
        return cut[1:]

    def open(self) -> NDArray[np.bool_]:
        """``(N,)``: the units that are not decided."""
        cut = self.cut()
        unclaimed = self._open_unclaimed()
        if not cut.any() and unclaimed is None:
            return cut
        mask = np.concatenate([[False], cut])[self.units].view(np.uint8)
        if unclaimed is not None:
            mask |= unclaimed
        touched = np.zeros(self.count + 1, np.bool_)
        touched[self.units[cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0]] = True
        return touched[1:] | cut

    def open_box(self, unit: int) -> Box:
        """The box of a unit, and a cell more on those sides where it may go on."""
        x, y, width, height = cv2.boundingRect((self.units == unit).view(np.uint8))
        left, top = x + self.box.x, y + self.box.y
        right, bottom = left + width, top + height
        left -= CELL_PX if left < self.inner.x else 0
        top -= CELL_PX if top < self.inner.y else 0
        right += CELL_PX if right > self.inner.right else 0
        bottom += CELL_PX if bottom > self.inner.bottom else 0
        return Box(left, top, right - left, bottom - top)

    def place_in(self, unit: int) -> Place:
        """The pixel of a unit that is nearest to the middle of what is seen of it."""
        rows, columns = np.nonzero(self.units == unit)
        nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
        return self.box.x + int(columns[nearest]), self.box.y + int(rows[nearest])

    def unit_at(self, place: Place) -> int:
        """The unit that holds a pixel of the grid; 0 where none does, or where nothing is shown."""
        x, y = place[0] - self.box.x, place[1] - self.box.y
        inside = 0 <= x < self.box.width and 0 <= y < self.box.height
        return int(self.units[y, x]) if inside else 0

    def near(self, reach: Box) -> NDArray[np.bool_]:
        """``(N,)``: the units with a pixel in `reach`."""
        shown = reach.clipped(self.box).shifted(-self.box.x, -self.box.y)
        near = np.zeros(self.count + 1, np.bool_)
        near[self.units[shown.y : shown.bottom, shown.x : shown.right]] = True
        return near[1:]

    @property
    def are_polygons(self) -> bool:
        """Whether objects are known as a whole even where their unit is cut."""
        return not isinstance(self.objects, Labels)

    def cells(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        """The objects of the units `wanted` ``(N,)`` whose centroid lies in `reach`, in pixels of the grid.

        Those longer than `max_cell_px` are none.
        """
        origin = (self.box.x, self.box.y)
        if isinstance(self.objects, Labels):
            labels = self.objects.image
            measures = outlines.measure(labels, self.objects.evidence, origin=origin)
            keep = wanted & reach.contains(measures.centroids) & (measures.areas >= min_area_px)
            found = outlines.trace(labels.copy(), measures, keep)
        else:
            x, y = self.objects.anchors.T
            found = polygons.place(self.objects.take(wanted[self.units[y, x] - 1]), origin=origin)
            found = found.take(reach.contains(found.centroids) & (found.areas >= min_area_px))
        return found.take(found.extents.max(axis=1, initial=0.0) <= self.max_cell_px)

    def _open_unclaimed(self) -> NDArray[np.uint8] | None:
        """``(H, W)`` 1 where the extent of no unit may go on beyond the box, else 0; None: nowhere."""
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


def look_at(outputs: Tensors, read: Box, extent: Box, decoding: Decoding) -> Look:
    """Decode a segmenter's `outputs`, without their batch axis, of the box `read`, as far as they are exact.

    Args:
        read: what the network was given, in pixels of the grid; its sides lie in `extent`, or less than a stride
            beyond.
        extent: the slide. What lies beyond was made of mirror images: there is nothing there.
    """
    # A side of the slide cuts nothing, also where a read box goes on to the next multiple of the stride.
    cut = (read.x > extent.x, read.y > extent.y, read.right < extent.right, read.bottom < extent.bottom)
    box = _shrunk(read, cut, -(-decoding.receptive_px // decoding.stride) * decoding.stride)
    shown = _cropped(outputs, decoding.outputs, read, box, extent)
    found, seen = decoding.head.look(shown, decoding.options, size=box.size, mpp=decoding.mpp)
    if isinstance(found, Labels):
        units = found.image
        unclaimed = cv2.bitwise_and(seen, cv2.compare(units, 0, cv2.CMP_EQ))
    else:
        units = np.asarray(cv2.connectedComponents(seen, connectivity=8, ltype=cv2.CV_32S)[1], np.int32)
        unclaimed = np.zeros_like(seen)
    return Look(
        objects=found,
        units=units,
        unclaimed=np.asarray(unclaimed, np.uint8),
        box=box,
        inner=_shrunk(box, cut, decoding.reach_px),
        max_cell_px=decoding.max_cell_px,
    )


def _cropped(
    outputs: Tensors, specs: tuple[OutputSpec, ...], read: Box, box: Box, extent: Box
) -> Mapping[str, NDArray[Any]]:
    """`outputs` of `read` as outputs of `box`, at their lowest beyond the slide.

    Boxes of objects are moved to the corner of `box`; other outputs without a free height and width stay as they
    are.
    """
    shown = {}
    for spec in specs:
        whole, axes, stride = outputs[spec.name], spec.layout[1:], spec.stride
        if spec.meaning == BOX:
            shown[spec.name] = whole - np.array([box.x - read.x, box.y - read.y] * 2, whole.dtype)
            continue
        if len(spec.free) < 2:
            shown[spec.name] = whole
            continue
        rows = slice((box.y - read.y) // stride, (box.bottom - read.y) // stride)
        columns = slice((box.x - read.x) // stride, (box.right - read.x) // stride)
        part = np.ascontiguousarray(whole[_index(axes, H=rows, W=columns)])
        below, beside = -(-(extent.bottom - box.y) // stride), -(-(extent.right - box.x) // stride)
        lowest = spec.range[0] or 0
        part[_index(axes, H=slice(max(0, below), None))] = lowest
        part[_index(axes, W=slice(max(0, beside), None))] = lowest
        shown[spec.name] = part
    return shown


def _index(axes: str, **parts: slice) -> tuple[slice, ...]:
    """The index of an array with these axes that takes `parts` of some of them and all of the others."""
    return tuple(parts.get(axis, slice(None)) for axis in axes)


def _shrunk(box: Box, cut: tuple[bool, bool, bool, bool], margin: int) -> Box:
    """`box` less a margin on its cut sides: left, top, right, bottom."""
    left, top, right, bottom = (margin if is_cut else 0 for is_cut in cut)
    return Box(box.x + left, box.y + top, max(1, box.width - left - right), max(1, box.height - top - bottom))
