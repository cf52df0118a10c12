"""What the results of tiles have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box
from slidecascade.slides.flaws import Flaws


@dataclass(frozen=True, slots=True)
class AnyTileResult:
    """What a tile gave, complete by itself. Each kind derives its own.

    Attributes:
        index: the tile's position in reading order.
        core: the part of the slide it owns, in pixels of the grid in which tiles are cut.
        tissue: ``(h, w)`` bool, the tissue blocks of the core; none in a background tile.
        unstored_px: pixels of the core's part in the region, in that grid, for which the source stores nothing.
        flaws: ink, and tissue out of focus, of the same part.
    """

    index: int
    core: Box
    tissue: NDArray[np.bool_]
    unstored_px: float = field(kw_only=True)
    flaws: Flaws = field(default_factory=Flaws, kw_only=True)

    @property
    def is_background(self) -> bool:
        return not self.tissue.any()


@dataclass(frozen=True, slots=True)
class TileFailure:
    """A tile that failed twice: its position, its core in pixels of the grid, and why."""

    index: int
    core: Box
    reason: str
