"""What one tile gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box


@dataclass(frozen=True, slots=True)
class TileResult:
    """The cells and the tissue of a tile; complete by itself, so that it can be written and read elsewhere.

    Attributes:
        index: the tile's position in reading order.
        core: the part of the slide it owns, in pixels of the segmenter's grid.
        tissue: ``(h, w)`` bool, the tissue blocks of the core; none in a background tile.
        cells: in level-0 pixels; the tile's own, and those just over a seam.
        owned, near_seam: ``(N,)`` masks over `cells`, for `seams.settle`.
        unstored_px: pixels of the core, in the segmenter's grid, for which the source stores nothing.
    """

    index: int
    core: Box
    tissue: NDArray[np.bool_]
    cells: Instances
    owned: NDArray[np.bool_]
    near_seam: NDArray[np.bool_]
    unstored_px: float

    @property
    def is_background(self) -> bool:
        return not self.tissue.any()


@dataclass(frozen=True, slots=True)
class TileFailure:
    """A tile that failed twice: its position, its core in pixels of the segmenter's grid, and why."""

    index: int
    core: Box
    reason: str
