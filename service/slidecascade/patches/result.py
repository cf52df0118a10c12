"""The result of a `patches` pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Grid
from slidecascade.kinds.result import RegionResult
from slidecascade.pipelines.patches import ProbabilityMap
from slidecascade.rings import Rings


@dataclass(frozen=True, slots=True)
class Outlines:
    """``N`` connected groups of squares of one class.

    Attributes:
        rings: their outlines with holes, in level-0 pixels.
        class_index: ``(N,)`` int64, into the result's `classes.ends`.
        squares: ``(N,)`` int64, how many squares each holds.
        means: ``(N,)`` float64, the mean probability of these.
    """

    rings: Rings
    class_index: NDArray[np.int64]
    squares: NDArray[np.int64]
    means: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rings)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchesResult(RegionResult):
    """Probabilities over a lattice.

    Attributes:
        grid: the classifier's.
        stride_px: side of a square of the lattice, in pixels of `grid`.
        first: column and row of the first square of `probabilities` in the slide's lattice.
        probabilities: ``(rows, columns, C)`` float32 of the classes of `models[0]`; NaN where there is no tissue.
        shown: which of these the classes are, in the order of `classes.ends`.
        outlines: of the squares that reach the threshold.
    """

    kind: ClassVar[str] = "patches"

    grid: Grid
    stride_px: int
    first: tuple[int, int]
    probabilities: NDArray[np.float32]
    shown: tuple[int, ...]
    outlines: Outlines
    heatmaps: tuple[ProbabilityMap, ...]

    @property
    def threshold(self) -> float:
        """The probability from which a square is of a class."""
        return self.thresholds[self.models[0].name]

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """``(rows, columns)``: the squares the classifier looked at."""
        return ~np.isnan(self.probabilities[:, :, 0])

    @property
    def class_index(self) -> NDArray[np.int64]:
        """``(rows, columns)``: the most probable class, into `classes.ends`; -1 below the threshold."""
        shown = self.probabilities[:, :, list(self.shown)]
        best = shown.argmax(axis=2)
        # NaN is below every threshold.
        reached = np.take_along_axis(shown, best[:, :, None], axis=2)[:, :, 0] >= self.threshold
        return np.where(reached, best, -1)

    @property
    def counts(self) -> dict[str, int]:
        """Squares by class name."""
        index = self.class_index
        numbers = np.bincount(index[index >= 0], minlength=len(self.classes.ends))
        return {end.name: int(number) for end, number in zip(self.classes.ends, numbers, strict=True)}
