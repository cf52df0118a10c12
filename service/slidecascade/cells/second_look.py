"""Looking again, from further away, at what a tile could not decide.

A piece of foreground that may go on beyond what a tile sees is looked at in a square around it, and in a larger
one while it goes on. Almost all are a few touching nuclei, decided by the first square. A piece that is longer than
the largest square (a fold, a crowded follicle) stays undecided: of it the tile's own objects are taken, and those
that the tile cuts from a square in which they are whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.look import Look
from slidecascade.cells.objects import Place
from slidecascade.geometry import Box

SQUARE_PX = (192, 320, 512)
"""Sides of the squares. Few, for a GPU plans anew for every shape."""


@dataclass(slots=True)
class Seen:
    """A look and which of its objects are taken, ``(N,)``."""

    look: Look
    wanted: NDArray[np.bool_]

    @classmethod
    def nothing_of(cls, look: Look) -> Seen:
        return cls(look, np.zeros(len(look.objects), np.bool_))

    def take_piece(self, piece: int) -> None:
        self.wanted |= self.look.objects_of(np.arange(len(self.look.piece_boxes)) == piece)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondLook:
    """How to look again.

    Attributes:
        look: gives what the segmenter sees in a box of its grid.
        whole: all that can be read of the slide.
        aligned_to: spacing of the lattice on which boxes lie.
        margin_px: how far from its sides a look decides nothing.
    """

    look: Callable[[Box], Look]
    whole: Box
    aligned_to: int
    margin_px: int

    def settle(self, first: Look, undecided: NDArray[np.int64], near: Box) -> list[Seen]:
        """What to take of `first`, whose pieces `undecided` are not decided, and of further looks.

        Args:
            near: where centroids of wanted cells lie.
        """
        is_open = np.zeros(len(first.piece_boxes), np.bool_)
        is_open[undecided] = True
        own = Seen(first, ~first.objects_of(is_open))
        further: list[Seen] = []
        for piece in undecided.tolist():
            place = first.place_in(piece)
            seen = self._seen_from(further, first.open_box(piece), place, _decides)
            if seen is None:
                self._take_objects(own, piece, near, further)
            else:
                seen.take_piece(seen.look.piece_at(place))
        return [own, *further]

    def _take_objects(self, own: Seen, piece: int, near: Box, further: list[Seen]) -> None:
        """The objects of a piece that no look decides: the tile's own, and whole ones for those it cuts."""
        of_piece = own.look.objects_of(np.arange(len(own.look.piece_boxes)) == piece)
        own.wanted |= of_piece
        cut = own.look.cut_objects
        for index in cut[of_piece[cut]].tolist():
            place = own.look.objects.place_in(index, near)
            if place is None:
                continue
            seen = self._seen_from(further, own.look.open_box_of_object(index), place, _shows_whole)
            if seen is not None and (whole := seen.look.objects.at(place)) is not None:
                seen.wanted[whole] = True

    def _seen_from(
        self, further: list[Seen], box: Box, place: Place, suffices: Callable[[Look, Place], bool]
    ) -> Seen | None:
        """A look around `box` that `suffices` for what is at `place`; None where the largest square does not."""
        for seen in further:
            if suffices(seen.look, place):
                return seen
        margin = self.margin_px + self.aligned_to
        for side in SQUARE_PX:
            if max(box.width, box.height) + 2 * margin > side:
                continue
            look = self.look(self._square(box, place, side))
            if suffices(look, place):
                further.append(Seen.nothing_of(look))
                return further[-1]
        return None

    def _square(self, box: Box, place: Place, least: int) -> Box:
        """A square on the lattice around the middle of `box`, moved into the slide; it shows `place`."""
        step = self.aligned_to
        side = -(-least // step) * step
        starts = []
        for middle, at, length in (
            ((box.x + box.right) // 2, place[0], self.whole.width),
            ((box.y + box.bottom) // 2, place[1], self.whole.height),
        ):
            middle = min(max(middle, at - side // 4), at + side // 4)
            starts.append(max(0, min((middle - side // 2) // step * step, length - side)))
        return Box(*starts, side, side).clipped(self.whole)


def _decides(look: Look, place: Place) -> bool:
    return bool(look.decided[look.piece_at(place)])


def _shows_whole(look: Look, place: Place) -> bool:
    index = look.objects.at(place)
    return index is not None and index not in look.cut_objects
