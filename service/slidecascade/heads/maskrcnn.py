"""Boxes, scores, labels and masks to polygons (Mask R-CNN; He et al. 2017), as torchvision's networks return them.

A mask of 28 x 28 is laid over its box, interpolated, and cut at one half: one pixel of margin is put around it and
the box grows with it, as torchvision does when it pastes masks into the image. Boxes that overlap too much are
dropped but for the best of them; torchvision's networks do that themselves, but in one image at a time.

A network states how many detections it returns for an image; unused ones have a score of 0. Boxes are in pixels of
what the network was given, and rounded to a 64th of a pixel: so a box is the same in every tile that shows it
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slidecascade.geometry import Size
from slidecascade.heads.contours import outer_rings
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.nearby import lines, pairs_within
from slidecascade.heads.objects import Polygons
from slidecascade.heads.suppression import kept
from slidecascade.models.tensors import BOX, OutputSpec, Tensors

_SUBPIXELS = 64
_MARGIN = 1


class MaskRcnnOptions(SegmenterOptions):
    """See the module.

    Attributes:
        foreground: the score above which a detection is an object.
        detections, mask_px: how many detections the network returns for an image, and the side of their masks.
        mask_threshold: where a pasted mask is cut.
        overlap: of two boxes with a larger intersection over union the worse is dropped.
        label: the class that is taken.
        max_side_um: objects with a longer side are dropped.
    """

    detections: Annotated[int, Field(ge=1, le=10_000)] = 100
    mask_px: Annotated[int, Field(ge=4, le=256)] = 28
    mask_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.5
    label: Annotated[int, Field(ge=1)] = 1
    max_side_um: Annotated[float, Field(gt=0, le=1000)] = 40.0


class _Detections:
    """The detections that count, those of the highest score first.

    Attributes:
        boxes: ``(N, 4)`` float64 left, top, right, bottom.
        anchors: ``(N, 2)`` int64 the pixel in the middle of each box.
        scores: ``(N,)`` float32.
        masks: ``(N, M, M)`` float32.
    """

    def __init__(self, outputs: Tensors, options: MaskRcnnOptions, size: Size, max_side_px: float) -> None:
        boxes = np.rint(outputs["boxes"].astype(np.float64) * _SUBPIXELS) / _SUBPIXELS
        scores = outputs["scores"].astype(np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        wanted = (scores > options.foreground) & (outputs["labels"] == options.label)
        wanted &= (sides > 0).all(axis=1) & (sides <= max_side_px).all(axis=1)
        middles = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.int64)
        wanted &= ((middles >= 0) & (middles < (size.width, size.height))).all(axis=1)
        chosen = np.flatnonzero(wanted)
        order = chosen[np.lexsort((*boxes[chosen].T, -scores[chosen]))]
        self.boxes, self.scores, self.anchors = boxes[order], scores[order], middles[order]
        self.masks = outputs["masks"][order].astype(np.float32)

    def overlapping(self, overlap: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pairs of boxes with a larger intersection over union, and those of one anchor."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        first, second = pairs_within(self.anchors, np.hypot(*sides.T) / 2 + 1)
        low = np.maximum(self.boxes[first, :2], self.boxes[second, :2])
        high = np.minimum(self.boxes[first, 2:], self.boxes[second, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        areas = sides.prod(axis=1)
        is_one = (self.anchors[first] == self.anchors[second]).all(axis=1)
        too_much = (shared > overlap * (areas[first] + areas[second] - shared)) | is_one
        return first[too_much], second[too_much]


class _MaskRcnnHead(ObjectHead[MaskRcnnOptions]):
    """The outlines of pasted masks."""

    name: ClassVar[str] = "maskrcnn"
    options = MaskRcnnOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        return self.outputs_with(classes, MaskRcnnOptions())

    def outputs_with(self, classes: Sequence[str], options: MaskRcnnOptions) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        """``boxes``, ``scores``, ``labels`` and ``masks`` of a fixed number of detections."""
        count, side = options.detections, options.mask_px
        return (
            OutputSpec(name="boxes", dtype="float32", layout="NKC", shape=("batch", count, 4), meaning=BOX),
            OutputSpec(
                name="scores",
                dtype="float32",
                layout="NK",
                shape=("batch", count),
                range=(0, 1),
                meaning="probability",
            ),
            OutputSpec(name="labels", dtype="int64", layout="NK", shape=("batch", count), meaning="class"),
            OutputSpec(
                name="masks",
                dtype="float32",
                layout="NKHW",
                shape=("batch", count, side, side),
                range=(0, 1),
                meaning="probability",
            ),
        )

    def look(
        self, outputs: Tensors, options: MaskRcnnOptions, *, size: Size, mpp: float
    ) -> tuple[Polygons, NDArray[np.uint8]]:
        found = _Detections(outputs, options, size, options.max_side_um / mpp)
        first, second = found.overlapping(options.overlap)
        polygons = _polygons(found, kept(np.arange(len(found.scores)), first, second), options)
        return polygons, _extent(found, polygons, first, second, size)

    def decode(self, outputs: Tensors, options: MaskRcnnOptions, *, mpp: float) -> Polygons:
        return self.look(outputs, options, size=_size(outputs), mpp=mpp)[0]

    def extent(self, outputs: Tensors, options: MaskRcnnOptions, *, mpp: float) -> NDArray[np.uint8]:
        return self.look(outputs, options, size=_size(outputs), mpp=mpp)[1]

    def reach_px(self, options: MaskRcnnOptions, *, mpp: float) -> int:
        # Boxes that overlap have middles closer than this, and an object's mask ends within its box.
        return int(2 * options.max_side_um / mpp) + 2


def _size(outputs: Tensors) -> Size:
    """The least image that holds all boxes."""
    width, height = np.ceil(outputs["boxes"][:, 2:].max(axis=0, initial=1)).astype(int).tolist()
    return Size(max(1, width), max(1, height))


def _extent(
    found: _Detections, polygons: Polygons, first: NDArray[np.intp], second: NDArray[np.intp], size: Size
) -> NDArray[np.uint8]:
    """255 from each object to its centroid, and from one candidate to the other where two compete; else 0."""
    anchors = found.anchors
    return lines(
        size,
        (anchors, anchors),
        (polygons.anchors, polygons.anchors + polygons.middle_pixels()),
        (anchors[first], anchors[second]),
    )


def _polygons(found: _Detections, is_kept: NDArray[np.bool_], options: MaskRcnnOptions) -> Polygons:
    chosen = np.flatnonzero(is_kept)
    corners, atlas, starts = _atlas(found.boxes[chosen], found.masks[chosen], options.mask_threshold)
    ids, vertices, offsets = outer_rings(atlas, (0, 0))
    index = ids - 1
    # From the place in the atlas to that in the image, counted from the anchor.
    shift = corners[index] - found.anchors[chosen[index]]
    shift[:, 0] -= starts[index]
    return Polygons(
        anchors=found.anchors[chosen[index]],
        vertices=vertices + np.repeat(shift, np.diff(offsets), axis=0),
        offsets=offsets,
        scores=found.scores[chosen[index]],
    )


def _atlas(
    boxes: NDArray[np.float64], masks: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """All masks at their size beside each other in one label image, a pixel apart.

    Returns:
        The pixel ``(N, 2)`` of the image at which each begins, the label image, and the column
        ``(N,)`` at which each begins there.
    """
    side = masks.shape[1] + 2 * _MARGIN
    scale = side / masks.shape[1]
    middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    # torchvision drops the fractions of the grown box, towards zero; floor is that and does not depend on the
    # corner.
    corners = np.floor(middles - halves).astype(np.int64)
    sizes = np.maximum(np.floor(middles + halves).astype(np.int64) - corners + 1, 1)
    starts = np.cumsum(sizes[:, 0] + 1) - sizes[:, 0] - 1
    width, height = int((sizes[:, 0] + 1).sum()), int(sizes[:, 1].max(initial=0))
    atlas = np.zeros((max(1, height), max(1, width)), np.int32)
    owner = np.repeat(np.arange(len(boxes)), sizes[:, 0])
    column = np.arange(len(owner)) - np.repeat(np.cumsum(sizes[:, 0]) - sizes[:, 0], sizes[:, 0])
    framed = np.pad(masks, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    left, next_left, part = _between(column, sizes[owner, 0], side)
    # First along x, a column of the atlas at a time, then along y.
    across = framed[owner, :, left] * (1 - part)[:, None] + framed[owner, :, next_left] * part[:, None]
    rows = np.arange(height)
    top, next_top, down = _between(rows[:, None], sizes[owner, 1][None], side)
    places = np.arange(len(owner))
    pasted = across[places, top] * (1 - down) + across[places, next_top] * down
    is_inside = (pasted > threshold) & (rows[:, None] < sizes[owner, 1][None])
    atlas[:height, starts[owner] + column] = np.where(is_inside, owner + 1, 0)
    return corners, atlas, starts


def _between(
    place: NDArray[np.int64], length: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The two of `side` samples a pixel at `place` of `length` lies between, and how far from the first.

    Pixels are squares whose centres are interpolated (PyTorch's ``align_corners=False``).
    """
    at = np.clip((place + 0.5) * (side / length) - 0.5, 0, side - 1)
    first = np.minimum(at.astype(np.int64), side - 1)
    return first, np.minimum(first + 1, side - 1), (at - first).astype(np.float32)


MASKRCNN: Final = _MaskRcnnHead()
