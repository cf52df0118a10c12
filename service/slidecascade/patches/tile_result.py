"""What one tile gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.kinds.tile_result import AnyTileResult


@dataclass(frozen=True, slots=True)
class PatchesTileResult(AnyTileResult):
    """The squares of the lattice in a tile.

    Attributes:
        first: column and row of the tile's first square in the lattice.
        probabilities: ``(rows, columns, C)`` float32; NaN where the classifier did not look.
    """

    first: tuple[int, int]
    probabilities: NDArray[np.float32]
