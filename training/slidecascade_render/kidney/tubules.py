"""Tubules as a cellular texture (after Worley 1996), round in cross section and long where they run along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from slidecascade_render.lattice import Field, place_keys, uniform

_JITTER: Final = 0.62


@dataclass(frozen=True, slots=True)
class Cells:
    """Of each pixel, in units of the pitch: offset in x and y, and distance, from the nearest point, distance from
    the border to the next, and two uniform numbers of its cell; float32 (H, W) each.
    """

    across: Field
    down: Field
    nearest: Field
    border: Field
    sort: Field
    size: Field


def cells(seed: int, channel: int, u: Field, v: Field) -> Cells:
    """The cells at ``(u, v)``, (H, W) each, in units of the pitch."""
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    left, top = int(column.min()) - 1, int(row.min()) - 1
    grid_column, grid_row = np.meshgrid(np.arange(left, int(column.max()) + 2), np.arange(top, int(row.max()) + 2))
    keys = place_keys(seed, channel, grid_column, grid_row)
    x = (grid_column + 0.5 + _JITTER * (uniform(keys, 1) - 0.5)).astype(np.float32)
    y = (grid_row + 0.5 + _JITTER * (uniform(keys, 2) - 0.5)).astype(np.float32)
    width = grid_column.shape[1]
    at = (row - top) * width + (column - left)
    nearest = np.full(u.shape, np.inf, np.float32)
    second = np.full(u.shape, np.inf, np.float32)
    owner = at.copy()
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            place = at + (down * width + across)
            away = (x.ravel()[place] - u) ** 2 + (y.ravel()[place] - v) ** 2
            is_nearer = away < nearest
            second = np.where(is_nearer, nearest, np.minimum(second, away))
            owner = np.where(is_nearer, place, owner)
            nearest = np.where(is_nearer, away, nearest)
    sort, size = uniform(keys, 3).astype(np.float32), uniform(keys, 4).astype(np.float32)
    first, other = np.sqrt(nearest), np.sqrt(second)
    across, down = u - x.ravel()[owner], v - y.ravel()[owner]
    return Cells(across, down, first, other - first, sort.ravel()[owner], size.ravel()[owner])
