"""Points, boxes and grids, and how their frames relate.

Conventions, stated here once. Geometry is (x, y) and (width, height); arrays are (H, W, C). x grows to the
right, y downwards. A coordinate names a position on the pixel *corner* lattice: pixel ``i`` covers
``[i, i + 1)`` and its centre is ``i + 0.5``. Boxes are half-open. Frames:

- ``l0``: level-0 pixels of the slide, or pixels of the uploaded image;
- ``grid``: pixels of one model's resolution, counted from the slide's top left corner (see `Grid`);
- ``tile``: pixels of one patch, counted from the patch's top left corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mpp = float
"""Micrometres per pixel."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in whole pixels, both at least 1."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"A size needs at least one pixel each way, not {self.width} x {self.height}.")

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle of whole pixels: ``[x, x + width) x [y, y + height)``."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    def as_tuple(self) -> tuple[int, int, int, int]:
        return (self.x, self.y, self.width, self.height)

    def inflated(self, margin: int) -> Box:
        """The box grown by `margin` pixels on every side."""
        return Box(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)

    def shifted(self, dx: int, dy: int) -> Box:
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def clipped(self, other: Box) -> Box:
        """The part of this box inside `other`; width or height 0 where they do not meet."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(x, y, max(0, right - x), max(0, bottom - y))

    def encloses(self, other: Box) -> bool:
        return self.clipped(other) == other

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of `points` ``(N, 2)`` lie inside, half-open."""
        x, y = points[:, 0], points[:, 1]
        inside: NDArray[np.bool_] = (x >= self.x) & (x < self.right) & (y >= self.y) & (y < self.bottom)
        return inside


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixels of one resolution over a slide.

    Grid pixel ``(0, 0)`` has its top left corner at ``(origin_x_l0, origin_y_l0)``; a grid pixel is
    `downsample` level-0 pixels wide. `size` is the extent in grid pixels; `mpp` is the true pixel size of the
    grid in micrometres. The grid of a model covers the whole slide and starts at level-0 (0, 0), whatever region
    is analysed; a map of a region (an overview, tissue) starts where it says.
    """

    origin_x_l0: float
    origin_y_l0: float
    downsample: float
    size: Size
    mpp: Mpp

    @property
    def extent(self) -> Box:
        return Box(0, 0, self.size.width, self.size.height)

    def l0_from_grid(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Level-0 positions of grid positions ``(N, 2)``."""
        origin = np.array([self.origin_x_l0, self.origin_y_l0])
        moved: NDArray[np.float64] = np.asarray(points, np.float64) * self.downsample + origin
        return moved

    def box_from_l0(self, box_l0: Box) -> Box:
        """The grid pixels that `box_l0` touches, inside the extent; at least one each way.

        A level's size is rounded down, so what lies beyond its last pixel counts as that pixel.
        """
        last = self.size
        x = min(max(math.floor((box_l0.x - self.origin_x_l0) / self.downsample), 0), last.width - 1)
        y = min(max(math.floor((box_l0.y - self.origin_y_l0) / self.downsample), 0), last.height - 1)
        right = min(math.ceil((box_l0.right - self.origin_x_l0) / self.downsample), last.width)
        bottom = min(math.ceil((box_l0.bottom - self.origin_y_l0) / self.downsample), last.height)
        return Box(x, y, max(right - x, 1), max(bottom - y, 1))

    def grid_from_l0(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Grid positions of level-0 positions ``(N, 2)``."""
        origin = np.array([self.origin_x_l0, self.origin_y_l0])
        moved: NDArray[np.float64] = (np.asarray(points, np.float64) - origin) / self.downsample
        return moved
