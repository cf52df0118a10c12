"""What one tile gave."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.coverage import Coverage
from slidecascade.cells.instances import Instances
from slidecascade.kinds.tile_result import AnyTileResult


@dataclass(frozen=True, slots=True)
class TileResult(AnyTileResult):
    """The cells and the tissue of a tile; complete by itself, so that it can be written and read elsewhere.

    Attributes:
        cells: in level-0 pixels; the tile's own, and those just over a seam.
        owned, near_seam: ``(N,)`` masks over `cells`, for `seams.settle`.
        coverages: of the pipeline's companions, in their order.
    """

    cells: Instances
    owned: NDArray[np.bool_]
    near_seam: NDArray[np.bool_]
    coverages: tuple[Coverage, ...] = field(default=(), kw_only=True)
