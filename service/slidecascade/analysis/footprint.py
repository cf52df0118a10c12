"""What a region may take of memory, worked out before any of it is taken.

Not part of it is what the process takes however many regions there are: the networks, and the tiles in flight, of
which there are as many as threads.
"""

from __future__ import annotations

from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box, Grid
from slidecascade.slides.view import MAX_PIECE_PX

CELL_COPIES = 4
"""A region's cells are held by tile, joined, and sorted, with an index of their vertices; measured: 3.7."""

CELLS_BYTES_PER_PX = 2
"""Cells, with their copies, per pixel of the grid they are found in: 1000 of 2 kB in a square of 1000 x 1000.

What cells take beyond is reserved when they are found.
"""

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


def expected_cells_bytes(region_l0: Box, grid: Grid, *, halo_px: int) -> int:
    """Memory of the cells of a region, found by a network that reads `grid` and `halo_px` around the region.

    Cells are found in the halo, too, before those outside of the region are dropped.
    """
    return CELLS_BYTES_PER_PX * grid.box_from_l0(region_l0).inflated(halo_px).clipped(grid.extent).area


def cells_bytes(cells: Instances) -> int:
    """Memory of cells until the answer is sent."""
    points = cells.centroids.nbytes + cells.vertices.nbytes + cells.offsets.nbytes
    numbers = cells.areas.nbytes + cells.scores.nbytes + sum(matrix.nbytes for matrix in cells.probabilities)
    return CELL_COPIES * (points + numbers)
