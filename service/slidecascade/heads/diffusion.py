"""How far flows differ from those that masks would have, as Cellpose measures it (Stringer et al. 2021).

Heat is let in at the middle of each mask and spreads in it; the flow of the mask points where it is hotter. That
takes a hundred rounds, so most masks are measured otherwise first: by the directions to their middle, which are
nearly the same in a mask without dents. Only masks whose flows differ much from these are measured by heat.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDS: Final = 128
"""Of heat; Cellpose takes as many as fit the largest mask of an image, which no other mask may depend on."""

SURE: Final = 0.6
"""A mask is good when its error by directions is below this part of the limit."""

# The pixel itself first, then up, down, left, right and the corners: (row, column).
_AROUND: Final = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def flow_errors(
    pixels: NDArray[np.intp],
    owner: NDArray[np.int32],
    steps: NDArray[np.complex64],
    *,
    width: int,
    limit: float,
) -> NDArray[np.float64]:
    """``(N,)``: the mean squared difference of each mask's flows from unit vectors, exact above `limit`.

    Args:
        pixels: ``(P,)`` flat indices in an image of that width, ascending.
        owner: ``(P,)`` the masks ``1..N`` of the pixels; 0 is none.
        steps: ``(P,)`` the flows, right and i times down, of length one in a perfect one.
    """
    inside = owner > 0
    pixels, steps, mask = pixels[inside], steps[inside], owner[inside].astype(np.int64) - 1
    count = int(mask.max(initial=-1)) + 1
    if count == 0:
        return np.zeros(0)
    rows, columns = np.divmod(pixels, width)
    middles = _middles(rows, columns, mask, count)
    towards = np.empty(len(mask), np.complex64)
    towards.real = columns[middles][mask] - columns
    towards.imag = rows[middles][mask] - rows
    errors = _mean_squares(_unit(towards) - steps, mask, count)
    doubtful = errors > SURE * limit
    if doubtful.any():
        chosen = doubtful[mask]
        number = np.cumsum(doubtful) - 1
        mask = number[mask[chosen]]
        middles = (np.cumsum(chosen) - 1)[middles[doubtful]]
        by_heat = _unit(_gradients(pixels[chosen], mask, middles, width))
        errors[doubtful] = _mean_squares(by_heat - steps[chosen], mask, len(middles))
    return errors


def _middles(
    rows: NDArray[np.intp], columns: NDArray[np.intp], mask: NDArray[np.int64], count: int
) -> NDArray[np.intp]:
    """``(count,)``: the index of the pixel of each mask that is nearest to the mean of its pixels."""
    areas = np.bincount(mask, minlength=count)
    # From the first pixel on, so that sums are small and the same wherever the image starts.
    first = _first(mask, count)
    distances = np.zeros(len(mask))
    for values in (rows, columns):
        moved = values - values[first][mask]
        means = np.bincount(mask, weights=moved, minlength=count) / areas
        distances += (moved - means[mask]) ** 2
    least = np.full(count, np.inf)
    np.minimum.at(least, mask, distances)
    nearest = np.flatnonzero(distances == least[mask])
    return nearest[_first(mask[nearest], count)]


def _first(mask: NDArray[np.int64], count: int) -> NDArray[np.intp]:
    """``(count,)``: the index of the first pixel of each mask."""
    first = np.zeros(count, np.intp)
    first[mask[::-1]] = np.arange(len(mask) - 1, -1, -1)
    return first


def _gradients(
    pixels: NDArray[np.intp], mask: NDArray[np.int64], middles: NDArray[np.intp], width: int
) -> NDArray[np.complex128]:
    """``(P,)``: right and i times down, towards more heat."""
    # A neighbour of another mask, or of none, is the place after the last, which stays cold.
    cold = len(pixels)
    beside = np.full((len(_AROUND), len(pixels)), cold, np.intp)
    columns = pixels % width
    for place, (down, right) in enumerate(_AROUND):
        wanted = pixels + down * width + right
        found = np.minimum(np.searchsorted(pixels, wanted), len(pixels) - 1)
        is_there = (pixels[found] == wanted) & (columns + right >= 0) & (columns + right < width)
        beside[place] = np.where(is_there & (mask[found] == mask), found, cold)
    heat = np.zeros(len(pixels) + 1)
    for _ in range(ROUNDS):
        heat[middles] += 1
        heat[:-1] = heat[beside].sum(axis=0) / len(_AROUND)
    up, down, left, right = heat[beside[1:5]]
    towards: NDArray[np.complex128] = (right - left) + 1j * (down - up)
    return towards


def _unit(vectors: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    lengths = np.abs(vectors)
    lengths[lengths == 0] = 1
    turned: NDArray[np.complexfloating] = vectors / lengths
    return turned


def _mean_squares(
    differences: NDArray[np.complexfloating], mask: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    squares = differences.real.astype(np.float64) ** 2 + differences.imag.astype(np.float64) ** 2
    means: NDArray[np.float64] = np.bincount(mask, weights=squares, minlength=count) / np.bincount(
        mask, minlength=count
    )
    return means
