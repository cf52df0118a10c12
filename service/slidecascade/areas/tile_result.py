"""What one tile gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.kinds.tile_result import AnyTileResult


@dataclass(frozen=True, slots=True)
class AreasTileResult(AnyTileResult):
    """The pieces of areas in a tile: pixels of one class that are connected by sides.

    The region's edge divides pieces as a tile's edge does.

    Attributes:
        labels: ``(L, h, w)`` int32, the pieces ``1..P`` of the core; 0 is background. One layer, or one for each
            class where classes overlap.
        piece_classes: ``(P,)`` int64, their classes, counted from 0.
        piece_px: ``(P,)`` int64, their pixels.
        piece_sums: ``(P,)`` int64, the sums of ``round(255 * p)`` of their class over their pixels.
        is_inside: ``(P,)`` bool, whether they lie in the region.
    """

    labels: NDArray[np.int32]
    piece_classes: NDArray[np.int64]
    piece_px: NDArray[np.int64]
    piece_sums: NDArray[np.int64]
    is_inside: NDArray[np.bool_]
