"""The cells of a field as a compact binary, which a viewer draws without parsing; docs/jobs.md describes it.

All numbers are little endian. Coordinates are whole sixteenths of a level-0 pixel. An outline is its first vertex
and the way from each vertex to the next one, in 2 bytes where all ways are short enough, else in 4.

======  =========================================================================================
offset  content
======  =========================================================================================
0       ``SCFC``
4       uint8 version (1); uint8 flags (1: the job has ended, these are the cells of its result)
6       uint8 bytes of a way's coordinate (2 or 4); uint8 classes C
8       uint32 index of the field, cells N, vertices V, bytes of the names M (a multiple of 4)
24      int32 units of a pixel (16), unused (0)
32      names of the C classes, UTF-8, joined by line feeds, padded with zeros to M bytes
32 + M  int32 first vertices (N, 2), x and y
        uint32 vertices of each outline (N)
        float32 probability (N): of the class by the network that decided, else of the segmenter
        int16 or int32 ways (V - N, 2)
        uint8 class (N): index of the names
======  =========================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.result import Analysis
from slidecascade.jobs.outlineways import OutlineWays

MAGIC: Final = b"SCFC"
VERSION: Final = 1
UNITS: Final = 16
MEDIA_TYPE: Final = "application/vnd.slidecascade.field"
_ENDED: Final = 1
_HEAD: Final = struct.Struct("<4s4B4I2i")


@dataclass(frozen=True, slots=True)
class FieldCells:
    """The cells of one field as they are drawn.

    Attributes:
        vertices: ``(V, 2)`` float64 in level-0 pixels, the outlines end to end; not closed.
        offsets: ``(N + 1,)`` where each outline begins.
        class_index: ``(N,)`` index of `classes`.
        probability: ``(N,)`` float32.
        is_final: the job has ended, and these are the cells of its result.
    """

    index: int
    classes: tuple[str, ...]
    vertices: NDArray[np.float64]
    offsets: NDArray[np.int64]
    class_index: NDArray[np.int64]
    probability: NDArray[np.float32]
    is_final: bool

    @classmethod
    def of(cls, index: int, analysis: Analysis) -> FieldCells:
        """The cells of `analysis`, which are those of field `index` in the result."""
        cells = analysis.instances
        return cls(
            index=index,
            classes=tuple(end.name for end in analysis.classes.ends),
            vertices=cells.vertices,
            offsets=cells.offsets,
            class_index=analysis.class_index,
            probability=_probability(analysis),
            is_final=True,
        )

    def encode(self) -> bytes:
        """See the module."""
        names = "\n".join(self.classes).encode()
        names += bytes(-len(names) % 4)
        outlines = OutlineWays.of(self.vertices, self.offsets, UNITS)
        head = _HEAD.pack(
            MAGIC,
            VERSION,
            _ENDED if self.is_final else 0,
            outlines.width,
            len(self.classes),
            self.index,
            len(outlines.firsts),
            len(self.vertices),
            len(names),
            UNITS,
            0,
        )
        arrays = (
            outlines.firsts.astype("<i4"),
            np.diff(self.offsets).astype("<u4"),
            self.probability.astype("<f4"),
            outlines.ways.astype(f"<i{outlines.width}"),
            self.class_index.astype("u1"),
        )
        return b"".join([head, names, *(array.tobytes() for array in arrays)])

    @classmethod
    def decode(cls, data: bytes) -> FieldCells:
        """What `encode` wrote.

        Raises:
            ValueError: it is something else, or truncated.
        """
        if len(data) < _HEAD.size or data[:5] != MAGIC + bytes([VERSION]):
            raise ValueError("This is not a field of version 1.")
        _, _, flags, width, classes, index, cells, points, name_bytes, units, _ = _HEAD.unpack_from(data)
        names = data[_HEAD.size : _HEAD.size + name_bytes].rstrip(b"\0").decode().split("\n")
        reader = _Reader(data, _HEAD.size + name_bytes)
        first = reader.take("<i4", 2 * cells).reshape(-1, 2)
        counts = reader.take("<u4", cells).astype(np.int64)
        probability = reader.take("<f4", cells)
        ways = reader.take(f"<i{width}", 2 * (points - cells)).reshape(-1, 2)
        class_index = reader.take("u1", cells).astype(np.int64)
        offsets = np.zeros(cells + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return cls(
            index=index,
            classes=tuple(names[:classes]),
            vertices=_walked(first, ways, offsets) / units,
            offsets=offsets,
            class_index=class_index,
            probability=probability.astype(np.float32),
            is_final=bool(flags & _ENDED),
        )


class _Reader:
    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._at = start

    def take(self, kind: str, count: int) -> NDArray[np.generic]:
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += found.nbytes
        return found


def _walked(
    first: NDArray[np.generic], ways: NDArray[np.generic], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``(V, 2)``: the vertices in units, each outline a running sum from its first one."""
    steps = np.zeros((int(offsets[-1]), 2), np.int64)
    follows = np.ones(len(steps), np.bool_)
    starts = offsets[:-1]
    follows[starts] = False
    steps[follows] = ways
    sums = np.cumsum(steps, axis=0)
    counts = np.diff(offsets)
    base = first.astype(np.int64) - sums[starts] if len(starts) else np.zeros((0, 2), np.int64)
    return (sums + np.repeat(base, counts, axis=0)).astype(np.float64)


def _probability(analysis: Analysis) -> NDArray[np.float32]:
    """``(N,)``: what the last network that looked at a cell gave to the class it ends in, else its score."""
    found = analysis.instances.scores.astype(np.float32)
    labels = [end.path[-1] for end in analysis.classes.ends]
    for model, matrix in zip(analysis.classifiers, analysis.instances.probabilities, strict=True):
        places = np.array([_place(model.classes, label) for label in labels], np.int64)[analysis.class_index]
        values = np.take_along_axis(matrix, np.maximum(places, 0)[:, None], axis=1)[:, 0]
        looked = (places >= 0) & ~np.isnan(values)
        found[looked] = values[looked]
    return found


def _place(labels: Sequence[str], label: str) -> int:
    return labels.index(label) if label in labels else -1
