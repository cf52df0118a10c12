"""Outlines with holes of the pieces of a label image, along the edges of its pixels.

A piece's outline has its own pixels to the right of the way it goes (y grows downwards): outer rings go clockwise
on the screen, the rings of holes the other way. Where two pixels of a piece touch at a corner only, the outline
keeps them together. So no ring touches itself, and an outline is a valid polygon, when the pieces are connected by
sides. The edges are followed for all pieces at once, by pointer jumping (Wyllie, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Sides of a pixel: top, right, bottom, left, in the direction in which an outline goes along them. Each with the
# pixels ahead at its end, beyond the corner to the left and straight on, as (rows, columns).
_AHEAD_LEFT = ((-1, 1), (1, 1), (1, -1), (-1, -1))
_STRAIGHT_ON = ((0, 1), (1, 0), (0, -1), (-1, 0))
_OUTSIDE = ((-1, 0), (0, 1), (1, 0), (0, -1))
_END = ((0, 1), (1, 1), (1, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Rings:
    """The outlines of ``N`` pieces, each a ring around it and rings around its holes.

    Attributes:
        vertices: ``(V, 2)`` float64, x and y of corners, all rings end to end; rings are not closed.
        ring_offsets: ``(R + 1,)`` int64; ring ``r`` is ``vertices[ring_offsets[r]:ring_offsets[r + 1]]``.
        piece_offsets: ``(N + 1,)`` int64; piece ``i`` has the rings ``piece_offsets[i]:piece_offsets[i + 1]``, the
            outer one first.
    """

    vertices: NDArray[np.float64]
    ring_offsets: NDArray[np.int64]
    piece_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.piece_offsets) - 1

    @classmethod
    def concatenate(cls, parts: Sequence[Rings]) -> Rings:
        """The outlines of all `parts`, in order."""
        shifts = np.cumsum([0, *(len(part.vertices) for part in parts)])
        ring_shifts = np.cumsum([0, *(len(part.ring_offsets) - 1 for part in parts)])
        zero = np.zeros(1, np.int64)
        return cls(
            np.concatenate([np.zeros((0, 2)), *(part.vertices for part in parts)]),
            np.concatenate([zero, *(p.ring_offsets[1:] + shift for p, shift in zip(parts, shifts, strict=False))]),
            np.concatenate(
                [zero, *(p.piece_offsets[1:] + shift for p, shift in zip(parts, ring_shifts, strict=False))]
            ),
        )

    def transformed(self, *, scale: float, shift_x: float, shift_y: float) -> Rings:
        """The same outlines in a frame where ``p' = p * scale + shift``."""
        moved = self.vertices * scale + np.array([shift_x, shift_y])
        return Rings(moved, self.ring_offsets, self.piece_offsets)

    def clipped(self, *, width: float, height: float) -> Rings:
        """The same outlines without what reaches beyond a box at the origin."""
        return Rings(np.clip(self.vertices, 0, (width, height)), self.ring_offsets, self.piece_offsets)


def trace(labels: NDArray[np.int32]) -> Rings:
    """The outlines of the pieces ``1..N`` of ``(H, W)``, each connected by sides; corners in whole pixels.

    A ring begins at its first corner in reading order, holes are in reading order too: outlines do not depend on
    what else is in the image.
    """
    padded = np.pad(labels, 1)
    flat, width = padded.ravel(), padded.shape[1]
    keys = _edges(padded)
    following = _following(keys, flat, width)
    side = keys % 4
    is_corner = side != side[following]
    rings, places = _cycles(following)
    kept = np.flatnonzero(is_corner)
    # A ring's number is its least edge: that of its first pixel in reading order.
    order = kept[np.lexsort((places[kept], rings[kept]))]
    rows, columns = np.divmod(keys[order] // 4, width)
    ends = np.array(_END)[side[order]]
    vertices = np.stack([columns + ends[:, 1], rows + ends[:, 0]], axis=1).astype(np.float64) - 1
    numbers, starts = np.unique(rings[order], return_index=True)
    return _by_piece(vertices, starts.astype(np.int64), flat[keys[numbers] // 4])


def _edges(padded: NDArray[np.int32]) -> NDArray[np.int64]:
    """Every side at which a piece ends, as ``4 * flat index of its pixel + side``, ascending."""
    found = []
    inner = padded[1:-1, 1:-1]
    height, width = inner.shape
    for side, (dy, dx) in enumerate(_OUTSIDE):
        beside = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        rows, columns = np.nonzero((inner != beside) & (inner > 0))
        found.append(4 * ((rows + 1) * padded.shape[1] + columns + 1) + side)
    return np.sort(np.concatenate(found).astype(np.int64))


def _following(keys: NDArray[np.int64], flat: NDArray[np.int32], width: int) -> NDArray[np.int64]:
    """The index of the edge that comes after each."""
    pixel, side = np.divmod(keys, 4)
    label = flat[pixel]
    left = pixel + np.array([dy * width + dx for dy, dx in _AHEAD_LEFT])[side]
    ahead = pixel + np.array([dy * width + dx for dy, dx in _STRAIGHT_ON])[side]
    turns_left, goes_on = flat[left] == label, flat[ahead] == label
    after = np.where(
        turns_left,
        4 * left + (side + 3) % 4,
        np.where(goes_on, 4 * ahead + side, 4 * pixel + (side + 1) % 4),
    )
    return np.asarray(np.searchsorted(keys, after), np.int64)


def _cycles(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each element of a permutation: the least of its cycle, and its distance from that."""
    least, ahead = np.arange(len(following)), following
    while True:
        lower = np.minimum(least, least[ahead])
        if np.array_equal(lower, least):
            break
        least, ahead = lower, ahead[ahead]
    # Steps to the end of the cycle, which ends before its least element.
    ahead = np.where(following == least, np.arange(len(following)), following)
    steps = (ahead != np.arange(len(following))).astype(np.int64)
    while True:
        further = steps[ahead]
        if not further.any():
            break
        steps, ahead = steps + further, ahead[ahead]
    return least, steps[least] - steps


def _by_piece(vertices: NDArray[np.float64], starts: NDArray[np.int64], pieces: NDArray[np.int32]) -> Rings:
    """Rings of pieces ``1..N``, put in the order of the pieces."""
    ends = np.append(starts[1:], len(vertices)).astype(np.int64)
    # A ring's first pixel in reading order is that of its piece for the outer ring alone.
    order = np.argsort(pieces, kind="stable")
    lengths = (ends - starts)[order]
    ring_offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(lengths, out=ring_offsets[1:])
    index = np.arange(ring_offsets[-1]) + np.repeat(starts[order] - ring_offsets[:-1], lengths)
    count = int(pieces.max(initial=0))
    piece_offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(pieces, minlength=count + 1)[1:], out=piece_offsets[1:])
    return Rings(vertices[index], ring_offsets, piece_offsets)


def split(vertices: NDArray[Any], offsets: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Views of rings that lie end to end, as OpenCV draws them; ``numpy.split`` takes twenty times as long."""
    return [vertices[start:end] for start, end in pairwise(offsets.tolist())]
