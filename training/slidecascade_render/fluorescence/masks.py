"""Parametric instance masks: star-shaped cells of given size, density, elongation, touching and overlap."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Floats = NDArray[np.float64]

_HARMONICS: Final = np.arange(2, 7)
_CANDIDATES: Final = 24
_PIXELS_AT_ONCE: Final = 2**22
_LEAST_VISIBLE: Final = 0.4
_GAP_PX: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOptions:
    """What cells look like and how they lie.

    Attributes:
        cells: how many are wanted; an image that is full has fewer.
        diameter_px: median diameter of a circle of the cell's area.
        size_deviation: standard deviation of the logarithm of diameters.
        elongation: the largest ratio of a cell's axes; ratios are uniform between 1 and this.
        irregularity: how far outlines deviate from ellipses, as part of the radius.
        touching: the part of the cells that are put beside another.
        overlap: the largest part of two radii by which neighbours come closer than touching; the upper cell hides
            the lower one.
    """

    cells: int = 60
    diameter_px: float = 24.0
    size_deviation: float = 0.2
    elongation: float = 1.6
    irregularity: float = 0.06
    touching: float = 0.3
    overlap: float = 0.1


@dataclass(slots=True)
class _Grid:
    """Placed cells in square buckets, so that a place is compared with its neighbours only."""

    side_px: float
    shape: tuple[int, int]
    members: list[list[list[int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.members = [[[] for _ in range(self.shape[1])] for _ in range(self.shape[0])]

    def near(self, row: int, column: int) -> list[int]:
        rows = self.members[max(0, row - 1) : row + 2]
        return [index for line in rows for bucket in line[max(0, column - 1) : column + 2] for index in bucket]


@dataclass(frozen=True, slots=True)
class Shapes:
    """Cells as radii over angles: ``(N,)`` axes in pixels and turns, ``(N, 5)`` amplitudes and phases."""

    long_px: Floats
    short_px: Floats
    turn: Floats
    amplitude: Floats
    phase: Floats

    @classmethod
    def draw(cls, options: MaskOptions, rng: np.random.Generator) -> Shapes:
        count = options.cells
        radius = options.diameter_px / 2 * np.exp(rng.normal(0, options.size_deviation, count))
        ratio = np.sqrt(rng.uniform(1, options.elongation, count))
        amplitude = rng.normal(0, options.irregularity, (count, len(_HARMONICS))) / (_HARMONICS - 1)
        return cls(
            long_px=radius * ratio,
            short_px=radius / ratio,
            turn=rng.uniform(0, 2 * np.pi, count),
            amplitude=np.clip(amplitude, -0.3, 0.3),
            phase=rng.uniform(0, 2 * np.pi, amplitude.shape),
        )

    @property
    def reach_px(self) -> Floats:
        """``(N,)``: no point of a cell is further from its centre."""
        reach: Floats = self.long_px * (1 + np.abs(self.amplitude).sum(axis=1))
        return reach

    def contain(self, chosen: NDArray[np.intp], x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Which offsets ``(n, s)`` from the centres of the `chosen` cells lie in them."""
        cells = chosen[:, None]
        angle, distance = np.arctan2(y, x) - self.turn[cells], np.hypot(x, y)
        radius = (
            self.long_px[cells]
            * self.short_px[cells]
            / np.hypot(self.short_px[cells] * np.cos(angle), self.long_px[cells] * np.sin(angle))
        )
        waves = np.ones_like(angle)
        for place, harmonic in enumerate(_HARMONICS):
            waves += self.amplitude[cells, place] * np.cos(harmonic * angle + self.phase[cells, place])
        inside: NDArray[np.bool_] = distance <= radius * waves
        return inside


def draw_masks(options: MaskOptions, height_px: int, width_px: int, rng: np.random.Generator) -> Labels:
    """``(H, W)`` labels 1 to n, each in one piece; cells that others hide by more than half are left out."""
    shapes = Shapes.draw(options, rng)
    placed, centres = _place(shapes, options, height_px, width_px, rng)
    labels, areas = _painted(shapes, placed, centres, height_px, width_px)
    return _whole_cells(labels, areas)


def _place(
    shapes: Shapes, options: MaskOptions, height_px: int, width_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], Floats]:
    """The cells that found a place and their centres ``(n, 2)``, x and y."""
    radius = np.sqrt(shapes.long_px * shapes.short_px)
    reach = shapes.reach_px
    largest = float(reach.max(initial=1.0))
    side = 2 * largest + _GAP_PX
    grid = _Grid(side, (int(height_px // side) + 1, int(width_px // side) + 1))
    centres = np.zeros((len(radius), 2))
    placed: list[int] = []
    for cell in range(len(radius)):
        partner = placed[rng.integers(len(placed))] if placed and rng.random() < options.touching else None
        places = rng.uniform(0, 1, (_CANDIDATES, 2)) * (width_px, height_px)
        closeness = 1 - rng.uniform(0, options.overlap)
        if partner is not None:
            angle = rng.uniform(0, 2 * np.pi, _CANDIDATES)
            away = closeness * (radius[cell] + radius[partner])
            places = centres[partner] + away * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        for place in places:
            if not (0 <= place[0] < width_px and 0 <= place[1] < height_px):
                continue
            row, column = int(place[1] // side), int(place[0] // side)
            others = grid.near(row, column)
            apart = np.hypot(*(centres[others] - place).T)
            least = reach[others] + reach[cell] + _GAP_PX
            if partner is not None:
                least = (radius[others] + radius[cell]) * min(closeness, 1 - options.overlap / 2) * 0.999
            if (apart >= least).all():
                centres[cell] = place
                grid.members[row][column].append(cell)
                placed.append(cell)
                break
    chosen = np.array(placed, np.intp)
    return chosen, centres[chosen]


def _painted(
    shapes: Shapes, placed: NDArray[np.intp], centres: Floats, height_px: int, width_px: int
) -> tuple[Labels, NDArray[np.int64]]:
    """Labels, the first cell on top, and the pixels ``(n + 1,)`` that each would have were none hidden."""
    labels = np.zeros(height_px * width_px, np.int32)
    areas = np.zeros(len(placed) + 1, np.int64)
    side = 2 * int(np.ceil(shapes.reach_px[placed].max(initial=0))) + 3
    step = max(1, _PIXELS_AT_ONCE // side**2)
    rows, columns = (axis.ravel() for axis in np.mgrid[:side, :side])
    # From the last to the first: what is written last is on top.
    for start in reversed(range(0, len(placed), step)):
        cells = placed[start : start + step]
        corner = np.floor(centres[start : start + step]).astype(np.int64) - side // 2
        x, y = corner[:, :1] + columns, corner[:, 1:] + rows
        offsets = centres[start : start + step]
        inside = shapes.contain(cells, x + 0.5 - offsets[:, :1], y + 0.5 - offsets[:, 1:])
        inside &= (x >= 0) & (x < width_px) & (y >= 0) & (y < height_px)
        areas[start + 1 : start + 1 + len(cells)] = inside.sum(axis=1)
        numbers = np.arange(start + 1, start + 1 + len(cells), dtype=np.int32)
        pixels = (y * width_px + x)[::-1][inside[::-1]]
        labels[pixels] = np.repeat(numbers[::-1], inside[::-1].sum(axis=1))
    return labels.reshape(height_px, width_px), areas


def _whole_cells(labels: Labels, areas: NDArray[np.int64]) -> Labels:
    """Of each cell its largest piece, numbered from 1; cells of which less than a part is left are removed."""
    pieces, count = _pieces(labels)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces.ravel()] = labels.ravel()
    order = np.argsort(-sizes[1:], kind="stable") + 1
    _, first = np.unique(owner[order], return_index=True)
    largest = order[first]
    largest = largest[sizes[largest] >= np.maximum(1, _LEAST_VISIBLE * areas[owner[largest]])]
    largest = largest[np.argsort(owner[largest], kind="stable")]
    number = np.zeros(count + 1, np.int32)
    number[largest] = np.arange(1, len(largest) + 1)
    kept: Labels = number[pieces]
    return kept


def _pieces(labels: Labels) -> tuple[NDArray[np.int32], int]:
    """Connected pieces (4 neighbours) of equal labels, numbered from 1; 0 is background.

    On a grid of twice the size pixels are joined only where neighbours have the same label.
    """
    height, width = labels.shape
    joined = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    joined[::2, ::2] = labels > 0
    joined[::2, 1::2] = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)
    joined[1::2, ::2] = (labels[1:] == labels[:-1]) & (labels[1:] > 0)
    count, pieces = cv2.connectedComponents(joined, connectivity=4, ltype=cv2.CV_32S)
    return np.ascontiguousarray(pieces[::2, ::2]), count - 1
