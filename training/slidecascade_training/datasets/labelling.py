"""Centres and classes of the crops of a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.cells.instances import Instances
from slidecascade.geometry import Size
from slidecascade_evaluation.annotation import Annotation, Points, area_of

UNLABELLED: Final = -1
_CONFLICT: Final = -2


@dataclass(frozen=True, slots=True)
class Labelled:
    """Centres of crops ``(N, 2)`` in level-0 pixels and the class index ``(N,)`` of each."""

    centres_l0: Points
    classes: npt.NDArray[np.int64]

    def inside(self, size: Size) -> Labelled:
        """Those whose centre is on a slide of `size`."""
        kept = ((self.centres_l0 >= 0) & (self.centres_l0 < (size.width, size.height))).all(axis=1)
        return Labelled(self.centres_l0[kept], self.classes[kept])


def at_marks(annotations: Sequence[Annotation], classes: Sequence[str]) -> Labelled:
    """A crop for every point and for every outline, at its centre of area."""
    numbers = {name: index for index, name in enumerate(classes)}
    centres = [annotation.centres_l0 for annotation in annotations]
    labels = [np.full(len(item), numbers[str(a.class_name)]) for item, a in zip(centres, annotations, strict=True)]
    return _joined(centres, labels)


def over_regions(
    annotations: Sequence[Annotation], classes: Sequence[str], *, stride_l0: float, size: Size
) -> Labelled:
    """Crops on a square grid of `stride_l0` wherever its points lie in a polygon and on the slide of `size`.

    The grid starts at the slide's corner, so that overlapping regions of one class share their crops. Where
    regions of several classes overlap, the smaller one is more specific and is used.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    places: dict[tuple[int, int], int] = {}
    for region in _larger_first(annotations):
        centres = _grid_over(region, stride_l0, size)
        cells = np.floor(centres / stride_l0).astype(np.int64).tolist()
        places |= {(x, y): numbers[str(region.class_name)] for x, y in cells}
    keys = np.array(sorted(places), np.int64).reshape(-1, 2)
    labels = np.array([places[x, y] for x, y in keys.tolist()], np.int64)
    return Labelled(np.asarray((keys + 0.5) * stride_l0, np.float64), labels)


@dataclass(frozen=True, slots=True)
class CellLabels:
    """`labelled` cells; how many cells had marks of two classes, and how many marks lay in no cell."""

    labelled: Labelled
    conflicting: int
    marks_without_cell: int


def of_cells(cells: Instances, annotations: Sequence[Annotation], classes: Sequence[str]) -> CellLabels:
    """Cells of a segmentation, each with the class of the point inside it, else of the region around it.

    The smallest of several regions around a cell is used; a cell with points of two classes is omitted.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    labels = np.full(len(cells), UNLABELLED, np.int64)
    for region in _larger_first(annotations):
        labels[region.contains(cells.centroids)] = numbers[str(region.class_name)]
    marked, lost = _marked(cells, annotations, numbers)
    labels = np.where(marked == UNLABELLED, labels, marked)
    kept = labels >= 0
    return CellLabels(
        Labelled(cells.centroids[kept], labels[kept]),
        conflicting=int((labels == _CONFLICT).sum()),
        marks_without_cell=lost,
    )


def _marked(
    cells: Instances, annotations: Sequence[Annotation], numbers: dict[str, int]
) -> tuple[npt.NDArray[np.int64], int]:
    """The class a point gives each cell, and how many points lie in none.

    Points are few, since they are set by hand; each is tested against the cells with a near centroid.
    """
    marked = np.full(len(cells), UNLABELLED, np.int64)
    order = np.argsort(cells.centroids[:, 0], kind="stable")
    x_sorted = cells.centroids[order, 0]
    reach = float(cells.extents.max(initial=0.0))
    lost = 0
    for annotation in annotations:
        for x, y in annotation.points_l0.tolist():
            first, end = np.searchsorted(x_sorted, (x - reach, x + reach))
            near = order[first:end]
            near = near[np.abs(cells.centroids[near, 1] - y) <= reach]
            cell = _holder(cells, near, x, y)
            if cell is None:
                lost += 1
                continue
            number = numbers[str(annotation.class_name)]
            marked[cell] = number if marked[cell] in (UNLABELLED, number) else _CONFLICT
    return marked, lost


def _holder(cells: Instances, candidates: npt.NDArray[np.int64], x: float, y: float) -> int | None:
    """The cell that contains the point; cells with a nearer centroid are tested first."""
    distances = np.hypot(*(cells.centroids[candidates] - (x, y)).T)
    for cell in candidates[np.argsort(distances, kind="stable")].tolist():
        outline = cells.vertices[cells.offsets[cell] : cells.offsets[cell + 1]]
        # float32 would lose the fraction of a level-0 position, so the outline is shifted to the point.
        if cv2.pointPolygonTest((outline - (x, y)).astype(np.float32), (0.0, 0.0), False) >= 0:
            return int(cell)
    return None


def _larger_first(annotations: Sequence[Annotation]) -> list[Annotation]:
    polygons = [item for item in annotations if item.is_polygon]
    return sorted(polygons, key=lambda item: area_of(item.rings_l0[0]), reverse=True)


def _grid_over(region: Annotation, stride: float, size: Size) -> Points:
    # A region may extend far beyond its slide.
    low = np.floor(np.maximum(region.rings_l0[0].min(axis=0), 0.0) / stride)
    high = np.ceil(np.minimum(region.rings_l0[0].max(axis=0), (size.width, size.height)) / stride)
    x, y = (np.arange(start, end) + 0.5 for start, end in zip(low, high, strict=True))
    centres: Points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2) * stride
    return centres[region.contains(centres)]


def _joined(centres: list[Points], labels: list[npt.NDArray[np.int64]]) -> Labelled:
    if not centres:
        return Labelled(np.zeros((0, 2)), np.zeros(0, np.int64))
    return Labelled(np.concatenate(centres), np.concatenate(labels).astype(np.int64))
