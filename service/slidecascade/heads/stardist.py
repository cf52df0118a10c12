"""Probabilities and distances along rays to star-convex polygons (StarDist; Schmidt et al. 2018).

Every pixel of a coarse grid states how likely it is in an object, and how far it is from there to the object's
edge along rays at even angles, the first to the right, the next ones clockwise on the screen. StarDist keeps the
polygons by falling probability and drops those that overlap a kept one: by more than a part of the smaller one's
area.

Here the candidates are the pixels whose probability is the highest of a neighbourhood, and the best of those that
overlap are kept, whatever order they come in (`slidecascade.heads.suppression`). So what is found in one place
does not depend on what is found in another. It differs from StarDist's own rule where a pixel that is no such
maximum would survive because the maximum beside it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slidecascade.geometry import Size
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.nearby import lines, pairs_within
from slidecascade.heads.objects import Polygons
from slidecascade.heads.suppression import kept
from slidecascade.models.tensors import OutputSpec, Tensors

_WINDOW = 5
"""Side of the neighbourhood, in pixels of the grid, of which a candidate is the maximum."""

_STRIPS = 3
"""Points along each of a polygon's triangles at which its overlap with another is looked at."""


class StardistOptions(SegmenterOptions):
    """See the module; the defaults are those of StarDist's model of fluorescent nuclei.

    `grid`: pixels of the image along one of the outputs. `rays`: how many. `overlap`: of two polygons that share
    more than this part of the smaller one, the less probable is dropped. Polygons with a ray longer than
    `max_radius_um` are dropped.
    """

    foreground: Annotated[float, Field(gt=0, lt=1)] = 0.479071
    grid: Literal[1, 2, 4] = 2
    rays: Annotated[int, Field(ge=8, le=256)] = 32
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.3
    max_radius_um: Annotated[float, Field(gt=0, le=500)] = 16.0


class _Candidates:
    """Polygons that compete, in the raster order of their pixels.

    Attributes:
        anchors: ``(N, 2)`` int64, x and y of their pixels in the image.
        scores: ``(N,)`` float32.
        rays: ``(N, R)`` float64, pixels of the image.
        corners: ``(N, R, 2)`` float64, x and y from the centre of the anchor's pixel on.
        areas: ``(N,)`` square pixels.
    """

    def __init__(self, outputs: Tensors, options: StardistOptions, max_radius_px: float) -> None:
        probability, distances = np.ascontiguousarray(outputs["prob"][:, :, 0]), outputs["dist"]
        highest = cv2.dilate(probability, np.ones((_WINDOW, _WINDOW), np.uint8))
        is_peak = cv2.compare(probability, highest, cv2.CMP_EQ)
        is_peak &= cv2.compare(probability, options.foreground, cv2.CMP_GT)
        rows, columns = np.nonzero(is_peak)
        # StarDist's own lower bound: a polygon has an area whatever the network says.
        rays = np.maximum(distances[rows, columns].astype(np.float64), 1e-3)
        fits = rays.max(axis=1, initial=0) <= max_radius_px
        rows, columns, self.rays = rows[fits], columns[fits], rays[fits]
        self.anchors = np.stack([columns, rows], axis=1).astype(np.int64) * options.grid
        self.scores = np.minimum(probability[rows, columns], 1).astype(np.float32)
        self.corners = self.rays[:, :, None] * _directions(options.rays)
        self.areas = _triangles(self.corners).sum(axis=1)

    def overlapping(self, overlap: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pairs that share more than `overlap` of the smaller one."""
        first, second = pairs_within(self.anchors, self.rays.max(axis=1, initial=0))
        is_small = self.areas[first] <= self.areas[second]
        small, large = np.where(is_small, first, second), np.where(is_small, second, first)
        shared = self._shared(small, large)
        return first[shared > overlap], second[shared > overlap]

    def _shared(self, small: NDArray[np.intp], large: NDArray[np.intp]) -> NDArray[np.float64]:
        """The part of each `small` polygon that lies in the `large` one: of points that stand for equal areas."""
        corners = self.corners[small]
        middles = (corners + np.roll(corners, -1, axis=1)) / 2
        depths = np.sqrt((np.arange(_STRIPS) + 0.5) / _STRIPS)
        moved = (self.anchors[small] - self.anchors[large]).astype(np.float64)
        points = middles[:, :, None] * depths[:, None] + moved[:, None, None]
        count = self.rays.shape[1]
        angles = np.arctan2(points[..., 1], points[..., 0]) * (count / (2 * np.pi))
        ray = np.floor(angles).astype(np.int64) % count
        start, end = (self.corners[large[:, None, None], index] for index in (ray, (ray + 1) % count))
        along, inward = end - start, points - start
        is_inside = along[..., 0] * inward[..., 1] - along[..., 1] * inward[..., 0] >= 0
        weights = _triangles(corners) / self.areas[small][:, None]
        shared: NDArray[np.float64] = (is_inside.mean(axis=2) * weights).sum(axis=1)
        return shared


class _StardistHead(ObjectHead[StardistOptions]):
    """Star-convex polygons."""

    name: ClassVar[str] = "stardist"
    options = StardistOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        return self.outputs_with(classes, StardistOptions())

    def outputs_with(self, classes: Sequence[str], options: StardistOptions) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        """``prob`` and ``dist``, a pixel for each `grid` of the input's."""
        shape = ("batch", "height", "width")
        return (
            OutputSpec(
                name="prob",
                dtype="float32",
                layout="NHWC",
                shape=(*shape, 1),
                range=(0, 1),
                stride=options.grid,
                meaning="probability",
            ),
            OutputSpec(
                name="dist",
                dtype="float32",
                layout="NHWC",
                shape=(*shape, options.rays),
                stride=options.grid,
                meaning="distance",
            ),
        )

    def look(
        self, outputs: Tensors, options: StardistOptions, *, size: Size, mpp: float
    ) -> tuple[Polygons, NDArray[np.uint8]]:
        found = _Candidates(outputs, options, options.max_radius_um / mpp)
        first, second = found.overlapping(options.overlap)
        rank = np.empty(len(found.scores), np.intp)
        rank[np.argsort(-found.scores, kind="stable")] = np.arange(len(rank))
        is_kept = kept(rank, first, second)
        polygons = Polygons(
            anchors=found.anchors,
            vertices=found.corners.reshape(-1, 2) + 0.5,
            offsets=np.arange(len(rank) + 1, dtype=np.int64) * options.rays,
            scores=found.scores,
        )
        # From each candidate to its centroid, and from one to the other where two compete.
        centroids = found.anchors + polygons.middle_pixels()
        extent = lines(size, (found.anchors, centroids), (found.anchors[first], found.anchors[second]))
        return polygons.take(is_kept), extent

    def decode(self, outputs: Tensors, options: StardistOptions, *, mpp: float) -> Polygons:
        return self.look(outputs, options, size=_size(outputs, options), mpp=mpp)[0]

    def extent(self, outputs: Tensors, options: StardistOptions, *, mpp: float) -> NDArray[np.uint8]:
        return self.look(outputs, options, size=_size(outputs, options), mpp=mpp)[1]

    def reach_px(self, options: StardistOptions, *, mpp: float) -> int:
        # Two polygons that share anything are closer than this.
        return int(2 * options.max_radius_um / mpp) + _WINDOW * options.grid


def _size(outputs: Tensors, options: StardistOptions) -> Size:
    height, width = outputs["prob"].shape[:2]
    return Size(width * options.grid, height * options.grid)


def _directions(rays: int) -> NDArray[np.float64]:
    """``(R, 2)``: x and y of unit vectors."""
    angles = np.arange(rays) * (2 * np.pi / rays)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _triangles(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, R)``: the areas of the triangles from the centre to each corner and the next."""
    ahead = np.roll(corners, -1, axis=1)
    areas: NDArray[np.float64] = (corners[..., 0] * ahead[..., 1] - corners[..., 1] * ahead[..., 0]) / 2
    return areas


STARDIST: Final = _StardistHead()
