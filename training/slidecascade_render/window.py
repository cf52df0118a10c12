"""The rendered part of the tissue plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidecascade_render.lattice import Floats

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open box of the plane in micrometres."""

    left_um: float
    top_um: float
    right_um: float
    bottom_um: float

    def grown(self, by_um: float) -> Window:
        return Window(self.left_um - by_um, self.top_um - by_um, self.right_um + by_um, self.bottom_um + by_um)

    def holds(self, x_um: Floats, y_um: Floats) -> Bools:
        """Which points lie inside."""
        inside: Bools = (
            (x_um >= self.left_um) & (x_um < self.right_um) & (y_um >= self.top_um) & (y_um < self.bottom_um)
        )
        return inside
