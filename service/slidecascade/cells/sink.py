"""The cells of a region from the results of its tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import cascade, seams
from slidecascade.cells.doubts import Census
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis, area_shares
from slidecascade.cells.tile import no_cells
from slidecascade.cells.tile_result import TileResult
from slidecascade.kinds.result import Account, Subject
from slidecascade.kinds.sink import MemorySink
from slidecascade.pipelines.cells import CellsPipeline


class CellsSink(MemorySink[CellsPipeline, TileResult]):
    """Keeps all cells and makes an `Analysis` of them."""

    def finish(self, subject: Subject, account: Account) -> Analysis:
        cells = self.cells()
        found = Analysis(
            **self.common(subject, account),
            instances=cells,
            class_index=self.classes(cells, subject.thresholds),
            heatmaps=self._pipeline.heatmaps,
            measures=self._pipeline.measures,
            area_shares=area_shares(
                self._pipeline, [result.coverages for result in self._results], subject.models
            ),
        )
        census = Census(found, self._pipeline.object_diameter_um)
        census.add(cells.centroids, cells.areas, found.class_index)
        return replace(found, warnings=(*found.warnings, *census.warnings()))

    def cells(self) -> Instances:
        """All cells once, from top to bottom, whatever tiles they were found in."""
        empty = no_cells(self._pipeline)
        cells = Instances.concatenate([empty, *(result.cells for result in self._results)])
        keep = seams.settle(
            cells.centroids,
            cells.areas,
            tile_index=np.repeat(
                [result.index for result in self._results], [len(result.cells) for result in self._results]
            ).astype(np.int64),
            owned=_joined([result.owned for result in self._results]),
            near_seam=_joined([result.near_seam for result in self._results]),
        )
        # One selection, for each is a copy of all cells.
        kept = np.flatnonzero(keep)
        return cells.take(kept[np.lexsort((cells.centroids[kept, 0], cells.centroids[kept, 1]))])

    def classes(self, cells: Instances, thresholds: Mapping[str, float]) -> NDArray[np.int64]:
        """``(N,)``: the class each of `cells` ends in."""
        return cascade.final_classes(cells.probabilities, self._pipeline, thresholds, len(cells))


def _joined(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(0, np.bool_), *masks])
