"""The areas of a region from the pieces in its tiles.

Pieces of one class that touch at a seam are one area, found by union-find; outlines are followed afterwards, once.
Which areas are too small is a matter of the slide: pieces beyond the region's edge count. Which pieces are one
area of the region is a matter of the region: there they are cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.result import AreasResult
from slidecascade.areas.tile import owned_box, smallest_px
from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.areas.unions import Unions
from slidecascade.geometry import Box
from slidecascade.kinds.mosaic import paste
from slidecascade.kinds.result import Subject
from slidecascade.kinds.sink import MemorySink
from slidecascade.pipelines.areas import AreasPipeline
from slidecascade.rings import trace


class AreasSink(MemorySink[AreasPipeline, AreasTileResult]):
    """Keeps all pieces and makes an `AreasResult` of them."""

    def finish(self, subject: Subject) -> AreasResult:
        box = owned_box(self._region_l0, self._grid)
        labels, classes = self._areas(box)
        pixels = np.bincount(labels.ravel(), minlength=len(classes) + 1)[1:].astype(np.int64)
        rings = trace(labels).transformed(scale=1.0, shift_x=box.x, shift_y=box.y)
        grid = self._grid
        return AreasResult(
            **self.common(subject),
            grid=grid,
            box=box,
            labels=labels,
            class_index=classes,
            areas_px=pixels,
            rings=rings.transformed(scale=grid.downsample, shift_x=grid.origin_x_l0, shift_y=grid.origin_y_l0),
            heatmaps=self._pipeline.heatmaps,
        )

    def _areas(self, box: Box) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The areas in `box` in reading order, ``(h, w)`` and their classes ``(N,)``."""
        starts = np.cumsum([0, *(len(result.piece_px) for result in self._results)])
        pieces = _Pieces(
            classes=_joined([result.piece_classes for result in self._results]),
            pixels=_joined([result.piece_px for result in self._results]),
            inside=_joined([result.is_inside for result in self._results]) > 0,
        )
        touching = pieces.of_one_class(np.concatenate([np.zeros((0, 2), np.int64), *self._touching(starts, box)]))
        on_slide = Unions(pieces.count)
        on_slide.join(touching)
        totals = np.bincount(on_slide.roots(), weights=pieces.pixels, minlength=pieces.count)
        kept = pieces.inside & (totals[on_slide.roots()] >= smallest_px(self._pipeline, self._grid))
        in_region = Unions(pieces.count)
        in_region.join(touching[pieces.inside[touching].all(axis=1)])
        areas = np.where(kept, in_region.roots() + 1, 0)
        labels = np.zeros((box.height, box.width), np.int32)
        for start, result in zip(starts.tolist(), self._results, strict=False):
            numbers = np.append(0, areas[start : start + len(result.piece_px)]).astype(np.int32)
            paste(numbers[result.labels], result.core, labels, box)
        return _numbered(labels, pieces.classes)

    def _touching(self, starts: NDArray[np.int64], box: Box) -> list[NDArray[np.int64]]:
        """Pairs of pieces side by side over seams of tiles and over the region's edge, as ``(K, 2)`` numbers."""
        by_corner = {(result.core.x, result.core.y): index for index, result in enumerate(self._results)}
        pairs = []
        for index, result in enumerate(self._results):
            core, labels = result.core, result.labels
            right, below = by_corner.get((core.right, core.y)), by_corner.get((core.x, core.bottom))
            if right is not None:
                pairs.append(_pairs(labels[:, -1], self._results[right].labels[:, 0], starts[[index, right]]))
            if below is not None:
                pairs.append(_pairs(labels[-1], self._results[below].labels[0], starts[[index, below]]))
            own = starts[[index, index]]
            for x in (box.x - core.x, box.right - core.x):
                if 0 < x < core.width:
                    pairs.append(_pairs(labels[:, x - 1], labels[:, x], own))
            for y in (box.y - core.y, box.bottom - core.y):
                if 0 < y < core.height:
                    pairs.append(_pairs(labels[y - 1], labels[y], own))
        return pairs


class _Pieces:
    """The pieces of all tiles, numbered through."""

    def __init__(
        self, *, classes: NDArray[np.int64], pixels: NDArray[np.int64], inside: NDArray[np.bool_]
    ) -> None:
        self.classes, self.pixels, self.inside = classes, pixels, inside

    @property
    def count(self) -> int:
        return len(self.pixels)

    def of_one_class(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `pairs` ``(K, 2)`` whose pieces are of one class."""
        same = self.classes[pairs[:, 0]] == self.classes[pairs[:, 1]]
        return np.asarray(pairs[same], np.int64)


def _pairs(first: NDArray[np.int32], second: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pieces beside each other at a seam; `starts` has the numbers of their tiles' first pieces."""
    both = (first > 0) & (second > 0)
    sides = np.stack([first[both], second[both]], axis=1).astype(np.int64)
    return np.unique(sides, axis=0) - 1 + starts


def _numbered(
    labels: NDArray[np.int32], classes: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Labels ``1..N`` by first pixels, and their classes; `classes` is by former label less 1."""
    where = np.flatnonzero(labels)
    first = np.full(len(classes) + 1, labels.size, np.int64)
    first[labels.ravel()[where[::-1]]] = where[::-1]  # of several values for one index the last is kept
    order = np.argsort(first, kind="stable")
    order = order[first[order] < labels.size]
    numbers = np.zeros(len(classes) + 1, np.int32)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers[labels], classes[order - 1]


def _joined(parts: list[NDArray[np.int64]] | list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
