"""Looking again, from further away, at what a tile could not decide.

A unit that a tile does not decide is looked at in a square around it, and in a larger one where that does not
decide it either. Most are decided by the first square. One that no square decides (a fold, a cell in a clump of
giants) is taken as the largest square shows it; where that cuts it, a label is not taken at all, and polygons are
taken as the tile itself shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.look import Look, Place
from slidecascade.geometry import Box

SQUARE_PX = (192, 320, 512)
"""Sides of the squares. Few, for a GPU plans anew for every shape."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A look, which of its units are taken and which are decided, ``(N,)`` both."""

    look: Look
    wanted: NDArray[np.bool_]
    decided: NDArray[np.bool_]

    @classmethod
    def nothing_of(cls, look: Look) -> Seen:
        return cls(look, np.zeros(look.count, np.bool_), ~look.open())

    def undecided_in(self, box: Box) -> NDArray[np.int64]:
        """The units that are not decided and have a pixel in `box`."""
        return np.flatnonzero(~self.decided & self.look.near(box)) + 1

    def takes(self, place: Place) -> bool:
        unit = self.look.unit_at(place)
        return unit > 0 and bool(self.wanted[unit - 1])

    def decides(self, place: Place) -> bool:
        unit = self.look.unit_at(place)
        return unit > 0 and bool(self.decided[unit - 1])


@dataclass(slots=True, kw_only=True)
class SecondLook:
    """How to look again.

    Attributes:
        look: gives what the segmenter sees in a box of its grid.
        whole: all that can be read of the slide.
        aligned_to: spacing of the lattice on which boxes lie.
        margin_px: how far from its sides a look decides nothing.
        most_px: pixels read in all, after which what is left is taken as the tile shows it.
        read_px: pixels read so far.
    """

    look: Callable[[Box], Look]
    whole: Box
    aligned_to: int
    margin_px: int
    most_px: int
    read_px: int = 0

    def settle(self, first: Seen, core: Box) -> list[Seen]:
        """What to take of `first` and of further looks: all that is decided, and the rest that touches `core`."""
        first.wanted[:] = first.decided
        further: list[Seen] = []
        for unit in first.undecided_in(core).tolist():
            place = first.look.place_in(unit)
            if any(seen.takes(place) for seen in further):
                continue  # two ends of one unit
            seen = self._seen_from(further, first.look.open_box(unit), place) or first
            found = seen.look.unit_at(place)
            if found and not seen.look.cut()[found - 1]:
                seen.wanted[found - 1] = True
            elif first.look.are_polygons:
                first.wanted[unit - 1] = True
        return [first, *further]

    def _seen_from(self, further: list[Seen], box: Box, place: Place) -> Seen | None:
        """A look that decides the unit at `place`, or else the widest one; None: too much was read."""
        for seen in further:
            if seen.decides(place):
                return seen
        if self.read_px > self.most_px:
            return None
        margin = self.margin_px + self.aligned_to
        for side in SQUARE_PX:
            if max(box.width, box.height) + 2 * margin > side and side != SQUARE_PX[-1]:
                continue
            square = self._square(box, place, side)
            self.read_px += square.area
            seen = Seen.nothing_of(self.look(square))
            if seen.decides(place):
                break
        further.append(seen)
        return seen

    def _square(self, box: Box, place: Place, least: int) -> Box:
        """A square on the lattice around the middle of `box`, moved into the slide; it shows `place`."""
        step = self.aligned_to
        side = -(-least // step) * step
        starts = []
        for middle, at, length in (
            ((box.x + box.right) // 2, place[0], self.whole.width),
            ((box.y + box.bottom) // 2, place[1], self.whole.height),
        ):
            near_middle = min(max(middle, at - side // 8), at + side // 8)
            starts.append(max(0, min((near_middle - side // 2) // step * step, length - side)))
        return Box(starts[0], starts[1], side, side).clipped(self.whole)
