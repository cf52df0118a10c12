"""What a segmenter sees in a box, and which of it would be the same seen from anywhere.

A network's outputs are exact where the whole receptive field was read: bit for bit those of any other read box. So
only that part is decoded. In it the extent of objects falls into pieces (pixels that share a side or a corner are
connected), and heads are local: which objects there are in a piece depends on the outputs in it and so many pixels
around it as the head states, and on nothing further away. A piece that ends inside the box is therefore decided;
one that may go on beyond is not, and needs another look from further away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.cells.label_objects import LabelObjects
from slidecascade.cells.objects import Place, SeenObjects, Sides
from slidecascade.cells.polygon_objects import PolygonObjects
from slidecascade.geometry import Box
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.objects import Labels
from slidecascade.models.tensors import OutputSpec, Tensors

CELL_PX = 24
"""A nucleus is about so long: what a piece that may go on beyond what is seen is expected to have there."""


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
        """How far around a piece of its extent the head looks; at least the pixel by which a piece is seen to end."""
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
    """Objects and pieces in `box`, in pixels of the segmenter's grid.

    Attributes:
        objects: what the head found.
        pieces: ``(H, W)`` int32, the connected pieces of the extent; 0 is background.
        piece_boxes: ``(P, 4)`` x, y, right and bottom of every piece in the grid's pixels, the background first.
        box: what is shown.
        inner: the part of `box` in which a piece must lie to be decided; it ends short of those sides beyond which
            the slide goes on.
        max_cell_px: objects with a longer side are dropped.
    """

    objects: SeenObjects
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

    def open_box(self, piece: int) -> Box:
        """The box of `piece`, and a cell more on those sides where it may go on."""
        x, y, right, bottom = self.piece_boxes[piece].tolist()
        return self._opened(Box(x, y, right - x, bottom - y))

    def open_box_of_object(self, index: int) -> Box:
        """The box of an object, and a cell more on those sides where it may go on."""
        return self._opened(self.objects.box_of(index))

    def place_in(self, piece: int) -> Place:
        """The first pixel of `piece`."""
        row, column = divmod(int((self.pieces == piece).argmax()), self.box.width)
        return self.box.x + column, self.box.y + row

    def piece_at(self, place: Place) -> int:
        """The piece that holds a pixel of the grid; 0 where none does, or where nothing is shown."""
        x, y = place[0] - self.box.x, place[1] - self.box.y
        inside = 0 <= x < self.box.width and 0 <= y < self.box.height
        return int(self.pieces[y, x]) if inside else 0

    def objects_of(self, pieces: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """``(N,)``: the objects that lie in `pieces` ``(P,)``."""
        chosen: NDArray[np.bool_] = pieces[self.objects.pieces(self.pieces)]
        return chosen

    @property
    def cut_objects(self) -> NDArray[np.int64]:
        """Objects that a side cuts beyond which the slide goes on."""
        box, inner = self.box, self.inner
        return self.objects.cut(
            (inner.x > box.x, inner.y > box.y, inner.right < box.right, inner.bottom < box.bottom)
        )

    def cells(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        """The objects `wanted` ``(N,)`` whose centroid lies in `reach`, in pixels of the grid.

        Those that a side of the box cuts are none, and neither are those longer than `max_cell_px`.
        """
        whole = wanted.copy()
        whole[self.cut_objects] = False
        found = self.objects.instances(whole, reach=reach, min_area_px=min_area_px)
        return found.take(found.extents.max(axis=1, initial=0.0) <= self.max_cell_px)

    def _opened(self, box: Box) -> Box:
        x = box.x - (CELL_PX if box.x < self.inner.x else 0)
        y = box.y - (CELL_PX if box.y < self.inner.y else 0)
        right = box.right + (CELL_PX if box.right > self.inner.right else 0)
        bottom = box.bottom + (CELL_PX if box.bottom > self.inner.bottom else 0)
        return Box(x, y, right - x, bottom - y)


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
    found = decoding.head.decode(shown, decoding.options, mpp=decoding.mpp)
    seen = decoding.head.extent(shown, decoding.options, mpp=decoding.mpp)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=8, ltype=cv2.CV_32S)
    low = stats[:, :2].astype(np.int64) + np.array([box.x, box.y])
    return Look(
        objects=LabelObjects(found, box) if isinstance(found, Labels) else PolygonObjects(found, box),
        pieces=np.asarray(pieces, np.int32),
        piece_boxes=np.concatenate([low, low + stats[:, 2:4]], axis=1),
        box=box,
        inner=_shrunk(box, cut, decoding.reach_px),
        max_cell_px=decoding.max_cell_px,
    )


def _cropped(
    outputs: Tensors, specs: tuple[OutputSpec, ...], read: Box, box: Box, extent: Box
) -> Mapping[str, NDArray[Any]]:
    """`outputs` of `read` as outputs of `box`, at their lowest beyond the slide.

    Those without height and width stay as they are.
    """
    shown = {}
    for spec in specs:
        whole, axes, stride = outputs[spec.name], spec.layout[1:], spec.stride
        if "H" not in axes or "W" not in axes:
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


def _shrunk(box: Box, cut: Sides, margin: int) -> Box:
    """`box` less a margin on its cut sides."""
    left, top, right, bottom = (margin if is_cut else 0 for is_cut in cut)
    return Box(box.x + left, box.y + top, max(1, box.width - left - right), max(1, box.height - top - bottom))
