"""What a region may take of memory, worked out before any of it is taken.

Not part of it is what the process takes however many regions there are: the networks, and the tiles in flight, of
which there are as many as threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas import tile as areas
from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box, Grid
from slidecascade.patches import tile as patches
from slidecascade.pipelines.areas import AreasPipeline
from slidecascade.pipelines.cells import CellsPipeline
from slidecascade.pipelines.patches import PatchesPipeline
from slidecascade.slides.view import MAX_PIECE_PX

CELL_COPIES = 4
"""A region's cells are held by tile, joined, and sorted, with an index of their vertices; measured: 3.7."""

CELLS_BYTES_PER_PX = 2
"""Cells, with their copies, per pixel of the grid they are found in: 1000 of 2 kB in a square of 1000 x 1000.

What cells take beyond is reserved when they are found.
"""

SQUARE_BYTES, PROBABILITY_BYTES = 320, 40
"""Of a square of a lattice, and of each of its probabilities: in tiles, joined, outlined, and while an answer is
written; measured: 280 with one class."""

AREAS_BYTES_PER_PX = 32
"""Of a mask's pixel: its label in tiles, joined and numbered with indices, or its part of a heatmap; measured:
28."""

AREAS_BYTES_PER_RUN = 300
"""Of a run of a mask's column: four numbers of 8 bytes in tiles, joined, sorted and compared with their
neighbours."""

AREAS_BYTES_PER_EDGE = 120
"""Of a side at which a pixel of one area meets another: outlines are followed along all of them at once; measured:
112."""

PICTURE_BYTES_PER_PX = 26
"""Of a pixel of the overview: read, resampled, drawn on twice and compressed; measured: 24."""

SLIDE_BYTES_PER_PX = 8
"""Of a pixel that is read from a slide to be made smaller: RGBA, then RGB, then the smaller ones."""


def answer_bytes(region_l0: Box, *, overview_side_px: int, decoded: bool) -> int:
    """Memory of a region's answer, its cells not included.

    Args:
        overview_side_px: longest side of the overview that the answer shows; 0: it shows none.
        decoded: whether the source holds its pixels in memory.
    """
    if not overview_side_px:
        return 0
    area = region_l0.area
    read = 0 if decoded else SLIDE_BYTES_PER_PX * min(area, MAX_PIECE_PX)
    return PICTURE_BYTES_PER_PX * min(area, overview_side_px**2) + read


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of what a kind of pipeline finds, until the answer is sent.

    Attributes:
        expected: of a region, from pipeline, region in level-0 pixels, and grids by model.
        kept: of a tile's result.
    """

    expected: Callable[[Any, Box, Mapping[str, Grid]], int]
    kept: Callable[[Any], int]


def hold_freely(size: int) -> None:
    """The memory of those who are alone."""


def expected_cells_bytes(pipeline: CellsPipeline, region_l0: Box, grids: Mapping[str, Grid]) -> int:
    """Memory of the cells of a region.

    Cells are found in the halo around it, too, before those outside of the region are dropped.
    """
    grid, halo_px = grids[pipeline.segmenter.name], pipeline.segmenter.halo_px
    return CELLS_BYTES_PER_PX * grid.box_from_l0(region_l0).inflated(halo_px).clipped(grid.extent).area


def cells_bytes(cells: Instances) -> int:
    """Memory of cells until the answer is sent."""
    points = cells.centroids.nbytes + cells.vertices.nbytes + cells.offsets.nbytes
    numbers = cells.areas.nbytes + cells.scores.nbytes + sum(matrix.nbytes for matrix in cells.probabilities)
    numbers += sum(column.nbytes for column in cells.measures)
    return CELL_COPIES * (points + numbers)


def expected_patches_bytes(pipeline: PatchesPipeline, region_l0: Box, grids: Mapping[str, Grid]) -> int:
    """Memory of the lattice of a region, as large as its tiles make it."""
    grid, stride = grids[pipeline.classifier.name], pipeline.stride_px
    covered = grid.box_from_l0(region_l0).inflated(patches.lattice_px(pipeline)).clipped(grid.extent)
    squares = -(-covered.width // stride) * -(-covered.height // stride)
    return lattice_bytes(squares, len(pipeline.classifier.classes))


def lattice_bytes(squares: int, classes: int) -> int:
    """Memory of a lattice with a probability for each of `classes` until the answer is sent."""
    return squares * (SQUARE_BYTES + PROBABILITY_BYTES * classes)


def expected_areas_bytes(pipeline: AreasPipeline, region_l0: Box, grids: Mapping[str, Grid]) -> int:
    """Memory of the mask of a region, as large as its tiles make it.

    What outlines take, which may be short or run around every pixel, is reserved when they are found.
    """
    grid = grids[pipeline.segmenter.name]
    needed = areas.needed_box(pipeline, region_l0, grid)
    return AREAS_BYTES_PER_PX * needed.inflated(areas.lattice_px(pipeline)).clipped(grid.extent).area


def pieces_bytes(result: AreasTileResult) -> int:
    """Memory of the pieces of a tile, and of their outlines, until the answer is sent."""
    runs = AREAS_BYTES_PER_RUN * len(result.runs)
    return AREAS_BYTES_PER_PX * result.core.area + AREAS_BYTES_PER_EDGE * result.edges + runs


def _squares_bytes(probabilities: NDArray[np.float32]) -> int:
    rows, columns, classes = probabilities.shape
    return lattice_bytes(rows * columns, classes)


CELLS_FOOTPRINT: Final = Footprint(expected_cells_bytes, lambda result: cells_bytes(result.cells))
PATCHES_FOOTPRINT: Final = Footprint(expected_patches_bytes, lambda result: _squares_bytes(result.probabilities))
AREAS_FOOTPRINT: Final = Footprint(expected_areas_bytes, pieces_bytes)
