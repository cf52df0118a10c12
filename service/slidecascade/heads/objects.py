"""What a head of a segmenter finds: a label image, or polygons that may overlap.

Both are in the frame of the image the network was given: x grows to the right, y downwards, pixel ``i`` covers
``[i, i + 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SUBPIXELS = 256
"""Vertices are rounded to this part of a pixel: moved by whole pixels they stay what they are."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Objects that share no pixel.

    Attributes:
        image: ``(H, W)`` int32; 0 is background, objects are ``1..N`` in the raster order of something of theirs
            that does not depend on where the image starts, such as their first pixel.
        evidence: ``(H, W)`` uint8, the probability times 255 that a pixel belongs to an object; an object's score
            is its mean.

    Raises:
        ValueError: when shapes or types are others.
    """

    image: npt.NDArray[np.int32]
    evidence: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.dtype != np.int32:
            raise ValueError(f"Labels are {self.image.dtype} {self.image.shape}; int32 (H, W) is expected.")
        if self.evidence.dtype != np.uint8 or self.evidence.shape != self.image.shape:
            raise ValueError(f"The evidence is {self.evidence.dtype} {self.evidence.shape}; uint8 is expected.")

    def __len__(self) -> int:
        return int(self.image.max(initial=0))


@dataclass(frozen=True, slots=True)
class Polygons:
    """``N`` objects with outlines of their own.

    Vertices are relative to a whole pixel, the object's anchor: an object is the same, bit for bit, wherever the
    image around it starts.

    Attributes:
        anchors: ``(N, 2)`` int64, x and y of a pixel of each object; no two of one score share theirs.
        vertices: ``(V, 2)`` float64, x and y of the outlines end to end, from the corner of the anchor's pixel on;
            rings are not closed.
        offsets: ``(N + 1,)`` int64; object ``i`` owns ``vertices[offsets[i]:offsets[i + 1]]``, at least three.
        scores: ``(N,)`` float32 in [0, 1].

    Raises:
        ValueError: when shapes or types contradict each other.
    """

    anchors: npt.NDArray[np.int64]
    vertices: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.offsets) - 1
        if count < 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.vertices):
            raise ValueError("The offsets of polygons start at 0 and end at the number of vertices.")
        if count and int(np.diff(self.offsets).min()) < 3:
            raise ValueError("A polygon has at least three vertices.")
        if self.anchors.shape != (count, 2) or self.anchors.dtype != np.int64:
            raise ValueError(
                f"Anchors are {self.anchors.dtype} {self.anchors.shape}; int64 ({count}, 2) expected."
            )
        if self.vertices.shape != (len(self.vertices), 2) or self.scores.shape != (count,):
            raise ValueError("Vertices are (V, 2) and scores one number per polygon.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def middle_pixels(self) -> npt.NDArray[np.int64]:
        """``(N, 2)``: x and y of the pixels that hold the centroids, from the anchors on."""
        vertices = np.rint(self.vertices * SUBPIXELS) / SUBPIXELS
        return np.floor(areas_and_centres(vertices, self.offsets)[1]).astype(np.int64)

    def take(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Polygons:
        """The polygons at `index` (positions, or a mask), in that order."""
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        lengths = np.diff(self.offsets)[index]
        offsets = np.zeros(len(index) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return Polygons(self.anchors[index], self.vertices[places], offsets, self.scores[index])


Objects = Labels | Polygons


def areas_and_centres(
    vertices: npt.NDArray[np.float64], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``(N,)`` areas and ``(N, 2)`` centroids of rings, by the shoelace formula; of a ring without area its mean.

    Each ring is summed by itself and in its own order, so that its numbers do not depend on the rings around it.
    """
    if len(offsets) == 1:
        return np.zeros(0), np.zeros((0, 2))
    after = np.arange(1, len(vertices) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    ahead = vertices[after]
    cross = vertices[:, 0] * ahead[:, 1] - ahead[:, 0] * vertices[:, 1]
    doubled = np.add.reduceat(cross, offsets[:-1])
    moments = np.add.reduceat((vertices + ahead) * cross[:, None], offsets[:-1], axis=0)
    means = np.add.reduceat(vertices, offsets[:-1], axis=0) / np.diff(offsets)[:, None]
    flat = doubled == 0
    centres = moments / np.where(flat, 1.0, 3 * doubled)[:, None]
    return np.abs(doubled) / 2, np.where(flat[:, None], means, centres)
