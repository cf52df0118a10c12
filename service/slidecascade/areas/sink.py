"""The areas of a region from the pieces in its tiles.

Pieces of one class that touch at a seam are one area, found by union-find; outlines are followed afterwards, once.
Which areas are too small is a matter of the slide: pieces beyond the region's edge count. Which pieces are one
area of the region is a matter of the region: there they are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.result import AreasResult
from slidecascade.areas.runs import Runs, outlines
from slidecascade.areas.tile import owned_box, smallest_px
from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.areas.unions import Unions
from slidecascade.geometry import Box
from slidecascade.kinds.mosaic import paste
from slidecascade.kinds.result import Account, Subject
from slidecascade.kinds.sink import MemorySink
from slidecascade.pipelines.areas import AreasPipeline
from slidecascade.slides.flaws import Flaws
from slidecascade.slides.tissue import BLOCK_PX


class AreasSink(MemorySink[AreasPipeline, AreasTileResult]):
    """Keeps all pieces and makes an `AreasResult` of them."""

    def finish(self, subject: Subject, account: Account) -> AreasResult:
        box = owned_box(self._region_l0, self._grid)
        runs, classes, sums = self._areas()
        pixels = runs.pixels(len(classes))
        rings = outlines(runs, len(classes))
        is_stated = self._pipeline.head.states_probabilities
        grid = self._grid
        return AreasResult(
            **self.common(subject, account),
            grid=grid,
            box=box,
            runs=runs,
            overlaps=self._pipeline.head.overlaps,
            class_index=classes,
            areas_px=pixels,
            probabilities=sums / np.maximum(pixels, 1) / 255.0 if is_stated else np.full(len(pixels), np.nan),
            rings=rings.transformed(scale=grid.downsample, shift_x=grid.origin_x_l0, shift_y=grid.origin_y_l0),
            heatmaps=self._pipeline.heatmaps,
            sizes=self._pipeline.sizes,
        )

    def _areas(self) -> tuple[Runs, NDArray[np.int64], NDArray[np.int64]]:
        """The areas of the region by first pixels in reading order: runs, and ``(N,)`` classes and sums."""
        pieces = _pieces_of(self._results)
        touching = pieces.touching()
        on_slide = Unions(pieces.count)
        on_slide.join(touching)
        in_region = Unions(pieces.count)
        in_region.join(touching[pieces.inside[touching].all(axis=1)])
        roots, slide_roots = in_region.roots(), on_slide.roots()
        pixels = pieces.runs.pixels(pieces.count)
        totals = np.bincount(slide_roots, weights=pixels, minlength=pieces.count)
        kept = pieces.inside & (totals[slide_roots] >= smallest_px(self._pipeline, self._grid))
        runs = pieces.runs.take(kept[pieces.runs.labels])
        runs = runs.labelled(roots[runs.labels])
        names = _by_first_pixel(runs, pieces.classes)
        numbers = np.zeros(pieces.count, np.int64)
        numbers[names] = np.arange(len(names))
        sums = np.bincount(roots, weights=pieces.sums, minlength=pieces.count).astype(np.int64)
        return runs.labelled(numbers[runs.labels]).merged(), pieces.classes[names], sums[names]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The pieces of all tiles, numbered through; see `AreasTileResult`."""

    runs: Runs
    classes: NDArray[np.int64]
    sums: NDArray[np.int64]
    inside: NDArray[np.bool_]

    @property
    def count(self) -> int:
        return len(self.classes)

    def touching(self) -> NDArray[np.int64]:
        """``(K, 2)``: pieces of one class that lie side by side, over seams of tiles and the region's edge."""
        pairs = [np.zeros((0, 2), np.int64)]
        for number in np.unique(self.classes).tolist():
            of_class = self.runs.take(self.classes[self.runs.labels] == number)
            sides = of_class.labels[of_class.touching()]
            pairs.append(np.unique(sides[sides[:, 0] != sides[:, 1]], axis=0))
        return np.concatenate(pairs)


def _pieces_of(results: Sequence[AreasTileResult]) -> _Pieces:
    starts = np.cumsum([0, *(len(result.piece_classes) for result in results)]).tolist()
    nothing = np.zeros(0, np.int64)
    return _Pieces(
        Runs.concatenate(
            *(
                result.runs.labelled(result.runs.labels + start)
                for start, result in zip(starts, results, strict=False)
            )
        ),
        np.concatenate([nothing, *(result.piece_classes for result in results)]),
        np.concatenate([nothing, *(result.piece_sums for result in results)]),
        np.concatenate([nothing > 0, *(result.is_inside for result in results)]),
    )


def joined(results: Sequence[AreasTileResult], index: int, core: Box) -> AreasTileResult:
    """Tiles of a field as one, whose core is `core`; pieces stay as they are, for `AreasSink` joins them."""
    pieces = _pieces_of(results)
    blocks = Box(core.x // BLOCK_PX, core.y // BLOCK_PX, -(-core.width // BLOCK_PX), -(-core.height // BLOCK_PX))
    tissue = np.zeros((blocks.height, blocks.width), np.bool_)
    for result in results:
        rows, columns = result.tissue.shape
        place = Box(result.core.x // BLOCK_PX, result.core.y // BLOCK_PX, columns, rows)
        paste(result.tissue, place, tissue, blocks)
    return AreasTileResult(
        index,
        core,
        tissue,
        pieces.runs,
        pieces.classes,
        pieces.sums,
        pieces.inside,
        sum(result.edges for result in results),
        unstored_px=sum(result.unstored_px for result in results),
        flaws=Flaws.total(result.flaws for result in results),
    )


def _by_first_pixel(runs: Runs, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels of `runs`, by their first pixels in reading order; of equal ones by class."""
    order = np.lexsort((classes[runs.labels], runs.columns, runs.tops))
    names, first = np.unique(runs.labels[order], return_index=True)
    return np.asarray(names[np.argsort(first, kind="stable")], np.int64)
