"""The result of a `cells` pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.errors import InvalidRequestError
from slidecascade.kinds.result import RegionResult
from slidecascade.pipelines.heatmaps import HeatmapSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(RegionResult):
    """Cells of a region with their provenance.

    `instances` is in level-0 pixels (pixels of the upload for an image); `class_index` ``(N,)`` int64 points into
    `classes.ends`; `instances.probabilities[k]` has the columns `models[k + 1].classes`,
    and `instances.measures` those named in `measures`.
    """

    kind: ClassVar[str] = "cells"

    instances: Instances
    class_index: NDArray[np.int64]
    heatmaps: tuple[HeatmapSpec, ...]
    measures: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Cells by class name, zero included."""
        numbers = np.bincount(self.class_index, minlength=len(self.classes.ends))
        return {end.name: int(number) for end, number in zip(self.classes.ends, numbers, strict=True)}

    @property
    def cell_counts(self) -> dict[str, int]:
        return self.counts

    def members(self, name: str) -> NDArray[np.bool_]:
        """``(N,)``: the cells of class `name` or of a class derived from it; none where there is no such class."""
        group = self.classes.groups.get(name)
        chosen: NDArray[np.bool_] = np.isin(self.class_index, group.members if group else ())
        return chosen


def cells_of(result: RegionResult) -> Analysis:
    """`result`, when it is of cells.

    Raises:
        InvalidRequestError: it is of another kind.
    """
    if not isinstance(result, Analysis):
        message = f"The pipeline {result.pipeline!r} finds {result.kind}, no cells: choose one of the kind cells."
        raise InvalidRequestError(message, (("pipeline", message),))
    return result
