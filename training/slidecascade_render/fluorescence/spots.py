"""Spots in cells: clouds of points of a 2-D normal distribution, each rendered as a small Gaussian.

The published recipe draws ``randn(n, 2)`` for round cells and multiplies the points of flat ones by
``C = [[-5, 2], [5, 0]]``; points that fall outside their cell, or on another spot, are drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade_render.fluorescence.masks import Labels

Floats = NDArray[np.float64]

FLAT_MATRIX: Final = np.array([[-5.0, 2.0], [5.0, 0.0]])
_FLAT_RATIO: Final = 1.5
_ROUNDS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotOptions:
    """How many spots a cell has, and how they look.

    Attributes:
        mean: of the Poisson distribution of spots in a cell.
        unit_px: pixels of one unit of the published distribution; None: half the radius of round cells, a tenth of
            that of flat ones.
        sigma_px: of the rendered Gaussians, the optics included.
        apart_px: centres of spots of one image are at least this far apart.
        snr: height of a spot over the standard deviation of the noise of the background in its channel.
    """

    mean: float = 0.0
    unit_px: float | None = None
    sigma_px: float = 1.3
    apart_px: float = 6.0
    snr: float = 8.0


@dataclass(frozen=True, slots=True)
class Spots:
    """Positions ``(n, 2)``, x and y on the pixel corner lattice, and the label ``(n,)`` of the cell of each."""

    positions: Floats
    cells: NDArray[np.int32]

    def counts(self, cells: int) -> NDArray[np.int64]:
        """``(cells,)``: spots of the labels 1 to `cells`."""
        return np.bincount(self.cells, minlength=cells + 1)[1:].astype(np.int64)


def published_points(count: int, rng: np.random.Generator, *, is_flat: bool) -> Floats:
    """``(count, 2)``: ``randn(n, 2)``, stretched by `FLAT_MATRIX` in flat cells; in units of the publication."""
    points = rng.standard_normal((count, 2))
    return points @ FLAT_MATRIX if is_flat else points


def place_spots(labels: Labels, options: SpotOptions, rng: np.random.Generator) -> Spots:
    """Spots inside the cells of ``(H, W)`` labels 1 to n; a cell without room has fewer than it drew."""
    centres, radii, is_flat = _moments(labels)
    wanted = rng.poisson(options.mean, len(radii))
    found: Floats = np.zeros((0, 2))
    owners: list[int] = []
    for cell, number in enumerate(wanted):
        unit = options.unit_px or radii[cell] / (10 if is_flat[cell] else 2)
        for _ in range(number):
            points = published_points(_ROUNDS, rng, is_flat=bool(is_flat[cell])) * unit + centres[cell]
            good = _inside(points, labels, cell + 1)
            if len(found):
                nearest = np.hypot(*(points[:, None] - found[None]).transpose(2, 0, 1)).min(axis=1)
                good &= nearest >= options.apart_px
            if good.any():
                found = np.concatenate([found, points[good.argmax()][None]])
                owners.append(cell + 1)
    return Spots(found, np.array(owners, np.int32))


def render_spots(spots: Spots, height_px: int, width_px: int, sigma_px: float) -> NDArray[np.float32]:
    """``(H, W)``: the sum of Gaussians of height 1, sampled at the centres of pixels."""
    image = np.zeros((height_px, width_px), np.float32)
    reach = int(np.ceil(4 * sigma_px))
    span = np.arange(-reach, reach + 1)
    corner = np.floor(spots.positions).astype(np.int64)
    columns, rows = corner[:, :1] + span, corner[:, 1:] + span
    across = np.exp(-((columns + 0.5 - spots.positions[:, :1]) ** 2) / (2 * sigma_px**2))
    down = np.exp(-((rows + 0.5 - spots.positions[:, 1:]) ** 2) / (2 * sigma_px**2))
    across[(columns < 0) | (columns >= width_px)] = 0
    down[(rows < 0) | (rows >= height_px)] = 0
    place = np.clip(rows, 0, height_px - 1)[:, :, None], np.clip(columns, 0, width_px - 1)[:, None, :]
    np.add.at(image, place, (down[:, :, None] * across[:, None, :]).astype(np.float32))
    return image


def _inside(points: Floats, labels: Labels, cell: int) -> NDArray[np.bool_]:
    columns, rows = np.floor(points).astype(np.int64).T
    inside = (columns >= 0) & (columns < labels.shape[1]) & (rows >= 0) & (rows < labels.shape[0])
    there: NDArray[np.bool_] = inside & (
        labels[np.clip(rows, 0, labels.shape[0] - 1), np.clip(columns, 0, labels.shape[1] - 1)] == cell
    )
    return there


def _moments(labels: Labels) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Centres ``(n, 2)``, radii ``(n,)`` of circles of equal area, and whether the axes differ much in length."""
    rows, columns = np.nonzero(labels)
    cell = labels[rows, columns] - 1
    count = int(labels.max(initial=0))
    area = np.bincount(cell, minlength=count).astype(np.float64)

    def mean(values: NDArray[np.generic]) -> Floats:
        return np.bincount(cell, weights=values, minlength=count) / area

    x, y = columns + 0.5, rows + 0.5
    centre_x, centre_y = mean(x), mean(y)
    x, y = x - centre_x[cell], y - centre_y[cell]
    xx, yy, xy = mean(x * x), mean(y * y), mean(x * y)
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    ratio = np.sqrt((xx + yy + spread) / np.maximum(xx + yy - spread, 1e-9))
    return np.stack([centre_x, centre_y], axis=1), np.sqrt(area / np.pi), ratio >= _FLAT_RATIO
