"""Fields of the kind `cells`.

A field owns the cells whose centroid lies in its core. Tiles hand over cells just outside their cores; those
outside the field's core are kept beside the part, and `collect` settles them with the neighbours by the rule of
`cells/seams.py`.

==================  =================================================================================
file of a part      content
==================  =================================================================================
``00012.parquet``   the cells that field 12 owns, see `outputs/cells/geoparquet.py`, and ``at_edge``
``00012.edge``      an Arrow stream of `cells/arrow.py`: the field's tissue, and cells just outside of it
==================  =================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import arrow, cascade, seams
from slidecascade.cells.coverage import Coverage
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.cells.tile import no_cells
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box, Grid
from slidecascade.jobs.fields import Field
from slidecascade.jobs.parts import FieldReport, Parts, failure_records, unreadable
from slidecascade.kinds.sink import KeepingSink
from slidecascade.kinds.tile_result import TileFailure
from slidecascade.outputs.cells import geoparquet
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.slides.tissue import BLOCK_PX

AT_EDGE: Final = "at_edge"


@dataclass(frozen=True, slots=True)
class FieldResult:
    """What one field gave.

    Attributes:
        cells: those the field owns, from top to bottom, in level-0 pixels.
        class_index: ``(N,)`` the class each of them ends in.
        at_edge: ``(N,)`` the cells so near to a neighbouring field that it may have found them too.
        edge: the tissue of the field's core, its unstored pixels, coverages, and the cells its tiles handed over.
        seen_px: pixels of the region that were analysed, in the segmenter's grid.
        tiles, background: how many tiles there were, and how many of them held glass only.
        failures: the tiles that failed twice.
    """

    field: Field
    cells: Instances
    class_index: NDArray[np.int64]
    at_edge: NDArray[np.bool_]
    edge: TileResult
    seen_px: int
    background: int
    failures: tuple[TileFailure, ...]


class CellsParts(Parts):
    """The parts of fields of cells."""

    def write(self, result: FieldResult, analysis: Analysis, seconds: Mapping[str, float]) -> FieldReport:
        """Keep a field; `analysis` holds its cells.

        Raises:
            UnwritableOutputError: nothing of the field was written.
            ModelFailedError: a number is not finite.
        """
        rows = geoparquet.with_flags(geoparquet.table(analysis), AT_EDGE, result.at_edge)
        report = FieldReport(
            index=result.field.index,
            cells=len(result.cells),
            vertices=len(result.cells.vertices),
            counts=analysis.counts,
            tiles=len(result.field.tiles),
            background=result.background,
            failed=failure_records(result.failures),
            seen_px=result.seen_px,
            seconds=dict(seconds),
        )
        return self.keep(report, {"parquet": geoparquet.encode(rows), "edge": arrow.encode(result.edge)})

    def rows(self, index: int, columns: list[str] | None = None) -> geoparquet.Table:
        """The cells of a field.

        Raises:
            UnreadablePartError: the part is gone or damaged.
        """
        try:
            return geoparquet.read(self.path(index, "parquet"), columns)
        except ValueError as error:
            raise unreadable(index) from error

    def edge(self, index: int) -> TileResult:
        """The tissue of a field and the cells it handed over.

        Raises:
            UnreadablePartError: the file is gone or damaged.
        """
        try:
            return arrow.decode(self.path(index, "edge").read_bytes())
        except (ValueError, OSError) as error:
            raise unreadable(index) from error


class CellsFieldSink(KeepingSink[TileResult]):
    """Takes the tiles of one field.

    Args:
        grid: the segmenter's.
        region: what is analysed, in pixels of that grid.
        parts: where the field is kept.
        blank: an analysis with all but its cells.
    """

    def __init__(
        self,
        field: Field,
        pipeline: CellsPipeline,
        grid: Grid,
        *,
        region: Box,
        parts: CellsParts,
        blank: Analysis,
    ) -> None:
        super().__init__()
        self._parts = parts
        self._blank = blank
        self._field = field
        self._pipeline = pipeline
        self._grid = grid
        self._region = region

    def keep(self, seconds: Mapping[str, float]) -> FieldReport:
        """Write the field's part; see `survey.FieldSink`."""
        result = self.result(self._blank.thresholds)
        analysis = replace(self._blank, instances=result.cells, class_index=result.class_index)
        return self._parts.write(result, analysis, seconds)

    def result(self, thresholds: Mapping[str, float]) -> FieldResult:
        """The field's cells once, whatever tiles they were found in."""
        cells, owned, near_seam = self._settled()
        order = np.lexsort((cells.centroids[:, 0], cells.centroids[:, 1]))
        mine, others = order[owned[order]], order[~owned[order]]
        kept, handed = cells.take(mine), cells.take(others)
        return FieldResult(
            field=self._field,
            cells=kept,
            class_index=cascade.final_classes(kept.probabilities, self._pipeline, thresholds, len(kept)),
            at_edge=near_seam[mine] & self._is_at_edge(kept),
            edge=TileResult(
                index=self._field.index,
                core=self._field.core,
                tissue=self._tissue(),
                cells=handed,
                owned=np.zeros(len(handed), np.bool_),
                near_seam=np.ones(len(handed), np.bool_),
                unstored_px=self.unstored_px,
                flaws=self.flaws(),
                coverages=tuple(
                    Coverage.total(result.coverages[index] for result in self._results)
                    for index in range(len(self._pipeline.area_fractions))
                ),
            ),
            seen_px=self.seen_px(self._region),
            background=self.background,
            failures=tuple(self._failures),
        )

    def _settled(self) -> tuple[Instances, NDArray[np.bool_], NDArray[np.bool_]]:
        """The cells that no other tile of the field has a better claim to, and their two masks."""
        nothing = np.zeros(0, np.bool_)
        empty = no_cells(self._pipeline)
        cells = Instances.concatenate([empty, *(result.cells for result in self._results)])
        owned = np.concatenate([nothing, *(result.owned for result in self._results)])
        near_seam = np.concatenate([nothing, *(result.near_seam for result in self._results)])
        indices = [result.index for result in self._results]
        keep = seams.settle(
            cells.centroids,
            cells.areas,
            tile_index=np.repeat(indices, [len(result.cells) for result in self._results]).astype(np.int64),
            owned=owned,
            near_seam=near_seam,
        )
        return cells.take(keep), owned[keep], near_seam[keep]

    def _is_at_edge(self, cells: Instances) -> NDArray[np.bool_]:
        margin = 2 * seams.MARGIN_PX + 1  # one more, for the way from level 0 back to the grid rounds
        core = self._field.core
        inner = Box(core.x + margin, core.y + margin, core.width - 2 * margin, core.height - 2 * margin)
        return ~inner.contains(self._grid.grid_from_l0(cells.centroids))

    def _tissue(self) -> NDArray[np.bool_]:
        core = self._field.core
        mask = np.zeros((-(-core.height // BLOCK_PX), -(-core.width // BLOCK_PX)), np.bool_)
        for result in self._results:
            rows, columns = result.tissue.shape
            top, left = (result.core.y - core.y) // BLOCK_PX, (result.core.x - core.x) // BLOCK_PX
            mask[top : top + rows, left : left + columns] = result.tissue
        return mask
