"""The compact binary of a field's cells, read; the service's docs/jobs.md describes the format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HEAD_BYTES = 32


@dataclass(frozen=True, slots=True)
class FieldCells:
    """The cells of one field of a job.

    Attributes:
        index: of the field.
        classes: names.
        outlines: one float64 array ``(n, 2)`` of level-0 pixels for each cell, not closed.
        class_index: ``(N,)`` index of `classes`.
        probability: ``(N,)`` float32, of the class.
        is_final: the job has ended, and these are the cells of its result.
    """

    index: int
    classes: tuple[str, ...]
    outlines: tuple[NDArray[np.float64], ...]
    class_index: NDArray[np.uint8]
    probability: NDArray[np.float32]
    is_final: bool

    @classmethod
    def read(cls, data: bytes) -> FieldCells:
        """The cells in `data`.

        Raises:
            ValueError: when it is no field of version 1.
        """
        if len(data) < _HEAD_BYTES or data[:4] != b"SCFC" or data[4] != 1:
            raise ValueError("This is not a field of version 1.")
        flags, width, classes = data[5], data[6], data[7]
        index, cells, vertices, name_bytes = np.frombuffer(data, "<u4", 4, 8).tolist()
        units = int(np.frombuffer(data, "<i4", 1, 24)[0])
        at = _HEAD_BYTES + name_bytes
        first = np.frombuffer(data, "<i4", 2 * cells, at).reshape(-1, 2)
        at += first.nbytes
        counts = np.frombuffer(data, "<u4", cells, at)
        at += counts.nbytes
        probability = np.frombuffer(data, "<f4", cells, at)
        at += probability.nbytes
        ways = np.frombuffer(data, f"<i{width}", 2 * (vertices - cells), at).reshape(-1, 2)
        at += ways.nbytes
        class_index = np.frombuffer(data, "u1", cells, at)
        ends = np.cumsum(counts.astype(np.int64) - 1)
        outlines = tuple(
            np.cumsum(np.vstack([start, way]).astype(np.int64), axis=0) / units
            for start, way in zip(first, np.split(ways, ends[:-1]) if cells else (), strict=True)
        )
        names = data[_HEAD_BYTES : _HEAD_BYTES + name_bytes].rstrip(b"\0").decode().split("\n")
        return cls(index, tuple(names[:classes]), outlines, class_index, probability, bool(flags & 1))
