"""From a label image to cells with outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
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
    ids, vertices, offsets = _rings(labels, measures.origin)
    chosen = ids - 1
    return Instances(
        centroids=measures.centroids[chosen],
        areas=measures.areas[chosen].astype(np.float64),
        scores=measures.scores[chosen],
        vertices=vertices,
        offsets=offsets,
    )


def _rings(
    labels: NDArray[np.int32], origin: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Label, vertices and offsets of the longest outer ring of every label, in label order."""
    # Framed: on a label image whose labels touch the border OpenCV walks along positions outside the image.
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    contours, hierarchy = cv2.findContours(framed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(1, np.int64)
    lengths = np.fromiter(map(len, contours), np.int64, len(contours))
    points = np.concatenate(contours)[:, 0, :]
    starts = np.cumsum(lengths) - lengths
    ids = framed[points[starts, 1], points[starts, 0]].astype(np.int64)
    # RETR_CCOMP on a label image returns holes (with a parent) as well, and rings of the background; an outline
    # needs three corners, which one-pixel-wide slivers lack.
    outer = (hierarchy[0, :, 3] < 0) & (ids > 0) & (lengths >= 3)
    rings = np.flatnonzero(outer)
    # One ring a label: the last after sorting by (label, length).
    rings = rings[np.lexsort((lengths[rings], ids[rings]))]
    last = np.append(ids[rings][1:] != ids[rings][:-1], True) if len(rings) else np.zeros(0, bool)
    rings = rings[last]
    offsets = np.zeros(len(rings) + 1, np.int64)
    np.cumsum(lengths[rings], out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(starts[rings] - offsets[:-1], lengths[rings])
    return ids[rings], _pushed_out((points[index] - 1 + origin).astype(np.float64), offsets), offsets


def _pushed_out(points: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rings through pixel centres moved half a pixel outwards, to the pixels' outer edges.

    ``cv2.findContours`` joins the centres of border pixels, which makes a 16 px nucleus one pixel too small.
    """
    after = np.arange(1, len(points) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    before = np.arange(-1, len(points) - 1)
    before[offsets[:-1]] = offsets[1:] - 1
    ahead = points[after] - points
    behind = points - points[before]
    tangent = ahead / _norm(ahead) + behind / _norm(behind)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) / _norm(tangent)
    crosses = points[:, 0] * points[after, 1] - points[after, 0] * points[:, 1]
    doubled_area = np.add.reduceat(crosses, offsets[:-1])
    # Positive area means clockwise on screen (y grows downwards), for which (ty, -tx) points outwards.
    outwards = np.repeat(np.where(doubled_area >= 0, 1.0, -1.0), np.diff(offsets))
    moved: NDArray[np.float64] = points + 0.5 + 0.5 * normal * outwards[:, None]
    return moved


def _norm(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.maximum(np.hypot(vectors[:, 0], vectors[:, 1]), 1e-9)[:, None]
    return lengths
