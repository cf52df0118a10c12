"""From a label image to cells with outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.heads.contours import outer_rings
from slidecascade.heads.labels import pixels_of


@dataclass(frozen=True, slots=True)
class Measures:
    """What a label image says of its labels ``1..N``.

    Attributes:
        origin: where the label image's corner lies in the frame of the centroids, in whole pixels.
        centroids: ``(N, 2)`` float64, x and y on the corner lattice. Exact sums of whole numbers, moved to the
            origin before they are divided: a mask has the same centroid, bit for bit, in every tile.
        areas: ``(N,)`` int64 pixels.
        scores: ``(N,)`` float32, the mean foreground probability.
    """

    origin: tuple[int, int]
    centroids: NDArray[np.float64]
    areas: NDArray[np.int64]
    scores: NDArray[np.float32]


def measure(
    labels: NDArray[np.int32], foreground: NDArray[np.uint8], *, origin: tuple[int, int] = (0, 0)
) -> Measures:
    """Measure the labels of ``(H, W)``; `foreground` ``(H, W)`` is the foreground probability times 255."""
    pixels = pixels_of(cv2.compare(labels, 0, cv2.CMP_GT))
    ids = labels.ravel()[pixels]
    ys, xs = np.divmod(pixels, labels.shape[1])
    count = int(ids.max(initial=0)) + 1
    areas = np.bincount(ids, minlength=count)[1:]
    sums = [
        np.bincount(ids, weights=values, minlength=count)[1:] for values in (xs, ys, foreground.ravel()[pixels])
    ]
    some = np.maximum(areas, 1)  # a label may have been erased
    moved = [total + start * areas for total, start in zip(sums[:2], origin, strict=True)]
    centroids = np.stack([total / some for total in moved], axis=1) + 0.5
    return Measures(origin, centroids, areas, (sums[2] / (255.0 * some)).astype(np.float32))


def trace(labels: NDArray[np.int32], measures: Measures, keep: NDArray[np.bool_]) -> Instances:
    """Cells of a label image, in the frame of `measures`.

    Args:
        labels: ``(H, W)`` int32, 0 background, cells ``1..N``; labels that are not kept are erased in it.
        measures: of all ``N`` labels.
        keep: ``(N,)`` which labels to return; the rest is not traced.

    Returns:
        The kept cells in label order. Of a cell in several pieces the longest outline is taken; holes are not.
    """
    if not keep.all():
        pixels = pixels_of(cv2.compare(labels, 0, cv2.CMP_GT))
        flat = labels.ravel()
        flat[pixels[~keep[flat[pixels] - 1]]] = 0
    ids, vertices, offsets = outer_rings(labels, measures.origin)
    chosen = ids - 1
    return Instances(
        centroids=measures.centroids[chosen],
        areas=measures.areas[chosen].astype(np.float64),
        scores=measures.scores[chosen],
        vertices=vertices,
        offsets=offsets,
    )
