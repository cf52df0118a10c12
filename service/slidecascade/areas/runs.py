"""Masks as runs of pixels down their columns, which is what they take little memory as.

What is here never makes the mask: parts of a slide are joined, divided into areas, outlined and written as run
lengths from runs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.unions import Unions
from slidecascade.geometry import Box
from slidecascade.rings import Rings, trace

ATLAS_PX: Final = 2**22
"""Pixels in which areas are outlined together; a larger area takes as many as the box around it."""


@dataclass(frozen=True, slots=True)
class Runs:
    """``N`` runs of pixels ``[top, bottom)`` in a column, sorted by column and top; int64 ``(N,)`` each.

    `labels` number what each run is part of, from 0. Runs of one label do not overlap.
    """

    columns: NDArray[np.int64]
    tops: NDArray[np.int64]
    bottoms: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def of_labels(cls, labels: NDArray[np.int32], *, x: int = 0, y: int = 0) -> Runs:
        """The runs of ``(h, w)`` labels, 0 being background; its corner lies at (x, y), and label 1 becomes 0."""
        turned = np.pad(labels.T, ((0, 0), (1, 1)))
        is_start = (turned[:, 1:] != turned[:, :-1]) & (turned[:, 1:] > 0)
        is_end = (turned[:, 1:] != turned[:, :-1]) & (turned[:, :-1] > 0)
        columns, tops = np.nonzero(is_start)
        bottoms = np.nonzero(is_end)[1]
        return cls(columns + x, tops + y, bottoms + y, turned[columns, tops + 1].astype(np.int64) - 1)

    @classmethod
    def concatenate(cls, *parts: Runs) -> Runs:
        """All runs of `parts`, whose labels count through already, sorted."""
        columns, tops, bottoms, labels = (
            np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)])
            for name in ("columns", "tops", "bottoms", "labels")
        )
        order = np.lexsort((tops, columns))
        return cls(columns[order], tops[order], bottoms[order], labels[order])

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Runs:
        return Runs(self.columns[chosen], self.tops[chosen], self.bottoms[chosen], self.labels[chosen])

    def labelled(self, labels: NDArray[np.int64]) -> Runs:
        """The same runs with other labels."""
        return Runs(self.columns, self.tops, self.bottoms, labels)

    def moved(self, x: int, y: int) -> Runs:
        """The same runs, so many pixels to the right and down."""
        return Runs(self.columns + x, self.tops + y, self.bottoms + y, self.labels)

    def pixels(self, count: int) -> NDArray[np.int64]:
        """``(count,)``: pixels by label."""
        sums = np.zeros(count, np.int64)
        np.add.at(sums, self.labels, self.bottoms - self.tops)
        return sums

    def touching(self) -> NDArray[np.int64]:
        """``(K, 2)``: runs that share a side; runs must not overlap."""
        return np.concatenate([self._beside(), self._below()])

    def merged(self) -> Runs:
        """The same pixels, runs of one label that follow each other without a gap made one."""
        order = np.lexsort((self.tops, self.labels, self.columns))
        runs = self.take(order)
        is_first = np.ones(len(runs), np.bool_)
        is_first[1:] = (
            (runs.columns[1:] != runs.columns[:-1])
            | (runs.labels[1:] != runs.labels[:-1])
            | (runs.tops[1:] != runs.bottoms[:-1])
        )
        starts = np.flatnonzero(is_first)
        ends = np.append(starts[1:], len(runs))[: len(starts)] - 1
        joined = Runs(runs.columns[starts], runs.tops[starts], runs.bottoms[ends], runs.labels[starts])
        return joined.take(np.lexsort((joined.tops, joined.columns)))

    def painted(self, box: Box) -> NDArray[np.bool_]:
        """``(box.height, box.width)``: the pixels of all runs; those beyond `box` are left out."""
        here = self.within(box.x, box.right)
        tops, bottoms = (np.clip(ends, box.y, box.bottom) - box.y for ends in (here.tops, here.bottoms))
        lengths = np.maximum(bottoms - tops, 0)
        nth = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        mask = np.zeros((box.height, box.width), np.bool_)
        mask[np.repeat(tops, lengths) + nth, np.repeat(here.columns - box.x, lengths)] = True
        return mask

    def within(self, left: int, right: int) -> Runs:
        """Those in the columns ``left..right - 1``."""
        first, last = np.searchsorted(self.columns, (left, right))
        return self.take(np.arange(first, last))

    def components(self) -> tuple[Runs, int]:
        """The runs labelled by the areas they form, pixels that share sides, whatever their labels were; and how
        many areas there are, which are numbered by their first runs.
        """
        joined = Unions(len(self))
        joined.join(self.touching())
        names, numbers = np.unique(joined.roots(), return_inverse=True)
        return self.labelled(numbers.astype(np.int64)), len(names)

    def _beside(self) -> NDArray[np.int64]:
        """``(K, 2)``: runs that share a side with one in the next column."""
        if not len(self):
            return np.zeros((0, 2), np.int64)
        height = int(self.bottoms.max()) + 1
        starts, ends = self.columns * height + self.tops, self.columns * height + self.bottoms
        first = np.searchsorted(ends, starts + height, side="right")
        last = np.searchsorted(starts, ends + height, side="left")
        counts = np.maximum(last - first, 0)
        sources = np.repeat(np.arange(len(self)), counts)
        nth = np.arange(len(sources)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([sources, first[sources] + nth], axis=1).astype(np.int64)

    def _below(self) -> NDArray[np.int64]:
        """``(K, 2)``: runs that follow each other in a column without a gap."""
        is_joined = (self.columns[1:] == self.columns[:-1]) & (self.tops[1:] == self.bottoms[:-1])
        above = np.flatnonzero(is_joined)
        return np.stack([above, above + 1], axis=1).astype(np.int64)


def outlines(runs: Runs, count: int) -> Rings:
    """The outlines of areas ``0..count - 1``, each connected by sides; see `slidecascade.rings.trace`."""
    order = np.argsort(runs.labels, kind="stable")
    sorted_runs = runs.take(order)
    starts = np.searchsorted(sorted_runs.labels, np.arange(count + 1))
    traced: list[Rings] = []
    for first, last in _atlases(_boxes(sorted_runs, starts)):
        traced.append(_traced(sorted_runs, starts, first, last))
    return Rings.concatenate(traced)


def _boxes(runs: Runs, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(count, 2)``: width and height of each label's box; `runs` are sorted by label."""
    first = starts[:-1]
    if not len(first):
        return np.zeros((0, 2), np.int64)
    left, right = np.minimum.reduceat(runs.columns, first), np.maximum.reduceat(runs.columns, first) + 1
    top, bottom = np.minimum.reduceat(runs.tops, first), np.maximum.reduceat(runs.bottoms, first)
    return np.stack([right - left, bottom - top], axis=1)


def _atlases(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Groups of labels that are outlined side by side."""
    first, width, height = 0, 0, 0
    for label, (across, down) in enumerate(sizes.tolist()):
        if label > first and (width + across + 1) * max(height, down) > ATLAS_PX:
            yield first, label
            first, width, height = label, 0, 0
        width, height = width + across + 1, max(height, down)
    if len(sizes) > first:
        yield first, len(sizes)


def _traced(runs: Runs, starts: NDArray[np.int64], first: int, last: int) -> Rings:
    """The outlines of labels ``first..last - 1``, painted beside each other."""
    here = runs.take(np.arange(starts[first], starts[last]))
    own = starts[first : last + 1] - starts[first]
    left = np.minimum.reduceat(here.columns, own[:-1])
    top = np.minimum.reduceat(here.tops, own[:-1])
    widths = np.maximum.reduceat(here.columns, own[:-1]) + 1 - left
    places = np.cumsum(widths + 1) - widths - 1
    numbers = here.labels - first
    tops = here.tops - top[numbers]
    canvas = np.zeros((int((here.bottoms - top[numbers]).max()), int((widths + 1).sum())), np.int32)
    lengths = here.bottoms - here.tops
    nth = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.repeat(tops, lengths) + nth
    canvas[rows, np.repeat(here.columns - left[numbers] + places[numbers], lengths)] = np.repeat(
        numbers + 1, lengths
    )
    rings = trace(canvas)
    ends = rings.ring_offsets[rings.piece_offsets]
    shifts = np.repeat(np.stack([left - places, top], axis=1), np.diff(ends), axis=0)
    return Rings(rings.vertices + shifts, rings.ring_offsets, rings.piece_offsets)
