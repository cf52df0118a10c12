"""Looking again, from further away, at what a tile could not decide.

An object that may go on beyond what a tile sees, or touches one that may, is looked at in a square around it, and
in a larger one where that does not decide it either. Most are decided by the first square. One that no square
decides (a fold, a cell in a clump of giants) is taken as the largest square shows it, or not at all where that
cuts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.look import SMOOTHING_PX, Look, Place
from slidecascade.geometry import Box

SQUARE_PX = (192, 320, 512)
"""Sides of the squares. Few, for a GPU plans anew for every shape."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A look and which of its objects are taken, ``(N,)``."""

    look: Look
    wanted: NDArray[np.bool_]
    decided: NDArray[np.bool_]

    @classmethod
    def nothing_of(cls, look: Look) -> Seen:
        return cls(look, np.zeros(look.count, np.bool_), ~look.open())

    def takes(self, place: Place) -> bool:
        label = self.look.label_at(place)
        return label > 0 and bool(self.wanted[label - 1])

    def decides(self, place: Place) -> bool:
        label = self.look.label_at(place)
        return label > 0 and bool(self.decided[label - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondLook:
    """How to look again.

    Attributes:
        look: gives what the segmenter sees in a box of its grid.
        whole: all that can be read of the slide.
        aligned_to: spacing of the lattice on which boxes lie.
        receptive_px: how far from its sides a look shows nothing.
    """

    look: Callable[[Box], Look]
    whole: Box
    aligned_to: int
    receptive_px: int

    def settle(self, first: Look, undecided: NDArray[np.int64]) -> list[Seen]:
        """What to take of `first`, of whose objects `undecided` are looked at again, and of further looks."""
        decided = ~first.open()
        own = Seen(first, decided.copy(), decided)
        further: list[Seen] = []
        for label in undecided.tolist():
            place = first.place_in(label)
            if any(seen.takes(place) for seen in further):
                continue  # two ends of one object
            seen = self._seen_from(further, first.open_box(label), place)
            found = seen.look.label_at(place)
            if found and not seen.look.cut()[found - 1]:
                seen.wanted[found - 1] = True
        return [own, *further]

    def _seen_from(self, further: list[Seen], box: Box, place: Place) -> Seen:
        """A look that decides the object at `place`, or else the one from furthest away."""
        for seen in further:
            if seen.decides(place):
                return seen
        margin = self.receptive_px + SMOOTHING_PX + self.aligned_to
        for side in SQUARE_PX:
            if max(box.width, box.height) + 2 * margin > side and side != SQUARE_PX[-1]:
                continue
            seen = Seen.nothing_of(self.look(self._square(box, place, side)))
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
