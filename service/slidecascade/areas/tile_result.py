"""What one tile gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.runs import Runs
from slidecascade.kinds.tile_result import AnyTileResult


@dataclass(frozen=True, slots=True)
class AreasTileResult(AnyTileResult):
    """The pieces of areas in a tile: pixels of one class that are connected by sides.

    The region's edge divides pieces as a tile's edge does.

    Attributes:
        runs: of the ``P`` pieces, in pixels of the grid, labelled by piece.
        piece_classes: ``(P,)`` int64, their classes, counted from 0.
        piece_sums: ``(P,)`` int64, the sums of ``round(255 * p)`` of their class over their pixels.
        is_inside: ``(P,)`` bool, whether they lie in the region.
        edges: sides at which a pixel of one piece meets another or none.
    """

    runs: Runs
    piece_classes: NDArray[np.int64]
    piece_sums: NDArray[np.int64]
    is_inside: NDArray[np.bool_]
    edges: int
