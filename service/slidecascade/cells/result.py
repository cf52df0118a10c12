"""The result of a `cells` pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.coverage import Coverage
from slidecascade.cells.instances import Instances
from slidecascade.errors import InvalidRequestError
from slidecascade.kinds.result import AreaShare, RegionResult, UsedModel
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.pipelines.heatmaps import HeatmapSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(RegionResult):
    """Cells of a region with their provenance.

    `instances` is in level-0 pixels (pixels of the upload for an image); `class_index` ``(N,)`` int64 points into
    `classes.ends`; `instances.probabilities[k]` has the columns `classifiers[k].classes`,
    and `instances.measures` those named in `measures`.
    """

    kind: ClassVar[str] = "cells"

    instances: Instances
    class_index: NDArray[np.int64]
    heatmaps: tuple[HeatmapSpec, ...]
    measures: tuple[str, ...] = ()

    @property
    def classifiers(self) -> tuple[UsedModel, ...]:
        """The stages of the cascade."""
        return classifiers_of(self.models)

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


def classifiers_of(models: Sequence[UsedModel]) -> tuple[UsedModel, ...]:
    """The stages of the cascade among all models of a pipeline."""
    return tuple(model for model in models if model.role == "classifier")


def area_shares(
    pipeline: CellsPipeline, coverages: Sequence[Sequence[Coverage]], models: Sequence[UsedModel]
) -> tuple[AreaShare, ...]:
    """What the companions of `pipeline` cover; `coverages` are those of each tile, `models` state their grids."""
    px_um2 = {model.name: model.grid.mpp**2 for model in models}
    shares = []
    for index, fraction in enumerate(pipeline.area_fractions):
        total = Coverage.total(parts[index] for parts in coverages)
        shares.append(
            AreaShare(
                name=fraction.name,
                title=fraction.title,
                model=fraction.model.name,
                class_name=fraction.class_name,
                covered_um2=total.covered_px * px_um2[fraction.model.name],
                tissue_um2=total.tissue_px * px_um2[fraction.model.name],
            )
        )
    return tuple(shares)


def cells_of(result: RegionResult) -> Analysis:
    """`result`, when it is of cells.

    Raises:
        InvalidRequestError: it is of another kind.
    """
    if not isinstance(result, Analysis):
        message = f"The pipeline {result.pipeline!r} finds {result.kind}, no cells: choose one of the kind cells."
        raise InvalidRequestError(message, (("pipeline", message),))
    return result
