"""What is asked of the objects in a look, whether they are labels or polygons."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box

Place = tuple[int, int]
"""A pixel of the grid: x and y."""

Sides = tuple[bool, bool, bool, bool]
"""Left, top, right, bottom: beyond which the slide goes on."""


class SeenObjects(Protocol):
    """``N`` objects, by index from 0; boxes and places are in pixels of the grid."""

    def __len__(self) -> int: ...

    def pieces(self, pieces: NDArray[np.int32]) -> NDArray[np.int64]:
        """``(N,)``: the piece each object lies in, of ``(H, W)`` numbers of pieces of the box."""
        ...

    def cut(self, sides: Sides) -> NDArray[np.int64]:
        """Objects that one of `sides` cuts: what is seen of them is not all."""
        ...

    def at(self, place: Place) -> int | None:
        """The object that holds a pixel; None where none does, or where nothing is shown."""
        ...

    def box_of(self, index: int) -> Box:
        """The pixels an object touches."""
        ...

    def place_in(self, index: int, near: Box) -> Place | None:
        """The first pixel of an object in `near`, by which it is found again; None where it has none there."""
        ...

    def instances(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        """The objects `wanted` ``(N,)`` whose centroid lies in `reach`, without those of a smaller area.

        To be asked once: the objects may be used up.
        """
        ...
