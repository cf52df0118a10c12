"""Cells as a struct of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Instances:
    """``N`` cells in one frame, which the owner of the object defines.

    Attributes:
        centroids: ``(N, 2)`` float64, x and y.
        areas: ``(N,)`` float64, in square pixels of the frame.
        scores: ``(N,)`` float32 in [0, 1], the segmenter's mean foreground probability.
        vertices: ``(V, 2)`` float64, the outlines of all cells end to end; rings are not closed
            (the first point is not repeated).
        offsets: ``(N + 1,)`` int64; cell ``i`` owns ``vertices[offsets[i]:offsets[i + 1]]``, at least three.
        probabilities: one ``(N, C_k)`` float32 matrix per cascade stage; a row is NaN where stage ``k`` did
            not see the cell.
        measures: columns ``(N,)`` float64 of what else was measured, in the order of the pipeline's names.

    Raises:
        ValueError: when shapes contradict each other.
    """

    centroids: NDArray[np.float64]
    areas: NDArray[np.float64]
    scores: NDArray[np.float32]
    vertices: NDArray[np.float64]
    offsets: NDArray[np.int64]
    probabilities: tuple[NDArray[np.float32], ...] = ()
    measures: tuple[NDArray[np.float64], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.offsets) - 1
        expected = {"centroids": (n, 2), "areas": (n,), "scores": (n,), "vertices": (len(self.vertices), 2)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Instances.{name} is {getattr(self, name).shape}, expected {shape}.")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.vertices):
            raise ValueError("Instances.offsets must start at 0 and end at the number of vertices.")
        if n and int(np.diff(self.offsets).min()) < 3:
            raise ValueError("Every instance needs an outline of at least three vertices.")
        if any(matrix.ndim != 2 or len(matrix) != n for matrix in self.probabilities):
            raise ValueError(f"Instances.probabilities must be matrices of {n} rows.")
        if any(column.shape != (n,) for column in self.measures):
            raise ValueError(f"Instances.measures must be columns of {n} rows.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def empty(cls, class_counts: Sequence[int] = (), *, measures: int = 0) -> Instances:
        """No cells, for a cascade whose stages have `class_counts` classes, with so many columns of measures."""
        return cls(
            centroids=np.zeros((0, 2)),
            areas=np.zeros(0),
            scores=np.zeros(0, np.float32),
            vertices=np.zeros((0, 2)),
            offsets=np.zeros(1, np.int64),
            probabilities=tuple(np.zeros((0, count), np.float32) for count in class_counts),
            measures=tuple(np.zeros(0) for _ in range(measures)),
        )

    def with_probabilities(self, *stages: NDArray[np.float32]) -> Instances:
        return replace(self, probabilities=stages)

    def with_measures(self, *columns: NDArray[np.float64]) -> Instances:
        return replace(self, measures=columns)

    @property
    def extents(self) -> NDArray[np.float64]:
        """``(N, 2)`` width and height of the outlines."""
        if not len(self):
            return np.zeros((0, 2))
        starts = self.offsets[:-1]
        spans: NDArray[np.float64] = np.maximum.reduceat(self.vertices, starts) - np.minimum.reduceat(
            self.vertices, starts
        )
        return spans

    def transformed(self, *, scale: float, shift_x: float, shift_y: float) -> Instances:
        """The same cells in a frame where ``p' = p * scale + shift``."""
        shift = np.array([shift_x, shift_y])
        return replace(
            self,
            centroids=self.centroids * scale + shift,
            areas=self.areas * scale**2,
            vertices=self.vertices * scale + shift,
        )

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Instances:
        """The cells at `index` (positions, or a mask), in that order."""
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        lengths = np.diff(self.offsets)[index]
        offsets = np.zeros(len(index) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # Position of every kept vertex: its place in its ring plus the start of that ring.
        vertex_index = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return Instances(
            centroids=self.centroids[index],
            areas=self.areas[index],
            scores=self.scores[index],
            vertices=self.vertices[vertex_index],
            offsets=offsets,
            probabilities=tuple(matrix[index] for matrix in self.probabilities),
            measures=tuple(column[index] for column in self.measures),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Instances]) -> Instances:
        """All cells of `parts` in order; the parts must have gone through the same cascade."""
        if not parts:
            raise ValueError("There is nothing to concatenate.")
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(
            centroids=np.concatenate([part.centroids for part in parts]),
            areas=np.concatenate([part.areas for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            vertices=np.concatenate([part.vertices for part in parts]),
            offsets=offsets,
            probabilities=tuple(
                np.concatenate(stage) for stage in zip(*(part.probabilities for part in parts), strict=True)
            ),
            measures=tuple(
                np.concatenate(columns) for columns in zip(*(part.measures for part in parts), strict=True)
            ),
        )
