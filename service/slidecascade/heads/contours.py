"""Outer rings of the labels of a label image, along the outer edges of their pixels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def outer_rings(
    labels: NDArray[np.int32], origin: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Label, vertices and offsets of the longest outer ring of every label of ``(H, W)``, in label order.

    Args:
        origin: x and y of the image's corner in the frame of the vertices, in whole pixels.
    """
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
