"""Spots in cells: bright points of one channel, found by the Laplacian of Gaussian and counted per cell.

A spot is a maximum of the scale-normalised Laplacian of a Gaussian of the spot's size (Lindeberg 1998) that rises
above the noise of its surroundings; its place is refined by a parabola along x and y. What is found in a place
depends on the pixels within `REACH_PX` of it alone, so that a cell has the same spots in every tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.pipelines.cells import SPOT_MEASURES

REACH_PX: Final = 16
_WINDOW: Final = 10
_PEAK: Final = np.ones((3, 3), np.uint8)
_PAIRS_AT_ONCE: Final = 2**22
_MAD: Final = 0.6745
_STEPS: Final = 64
"""Responses are rounded to this part of a count: the last bit of a filter depends on where an image starts."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spots:
    """Positions ``(S, 2)``, x and y from the image's corner; heights ``(S,)`` over their surroundings."""

    positions: Floats
    heights: Floats


def find_spots(counts: NDArray[np.uint16], *, sigma_px: float, snr: float) -> Spots:
    """The spots of an image ``(H, W)``.

    Args:
        counts: of the camera.
        sigma_px: standard deviation of a spot.
        snr: how many standard deviations of the filtered noise a spot rises at least.
    """
    response, noise_gain = _response(counts, sigma_px)
    candidates = _peaks(response)
    image = counts.astype(np.float32)
    return _above_noise(image, response, candidates, snr * noise_gain)


def measure(cells: Instances, counts: NDArray[np.uint16], *, sigma_px: float, snr: float) -> tuple[Floats, ...]:
    """A column ``(N,)`` for each of `SPOT_MEASURES`, 0 without spots.

    Outlines count from the corner of `counts` ``(H, W)``.
    """
    if not len(cells):
        return tuple(np.zeros(0) for _ in SPOT_MEASURES)
    response, noise_gain = _response(counts, sigma_px)
    rows, columns = _peaks(response)
    places = np.stack([columns, rows], axis=1).astype(np.float64) + 0.5
    inside, _ = _in_cells(places, cells, margin_px=1.0)
    chosen = np.unique(inside)
    spots = _above_noise(counts.astype(np.float32), response, (rows[chosen], columns[chosen]), snr * noise_gain)
    spot, cell = _in_cells(spots.positions, cells, margin_px=0.0)
    numbers = np.bincount(cell, minlength=len(cells)).astype(np.float64)
    heights = np.bincount(cell, weights=spots.heights[spot], minlength=len(cells))
    return numbers, heights / np.maximum(numbers, 1)


def _response(counts: NDArray[np.uint16], sigma_px: float) -> tuple[NDArray[np.float32], float]:
    """The filtered image, and the deviation that noise of deviation 1 has in it."""
    reach = int(np.ceil(4 * sigma_px))
    steps = np.arange(-reach, reach + 1)
    smooth = np.exp(-(steps**2) / (2 * sigma_px**2))
    smooth /= smooth.sum()
    bent = (1 - steps**2 / sigma_px**2) * smooth
    bent -= bent.sum() * smooth
    gain = np.linalg.norm(np.outer(bent, smooth) + np.outer(smooth, bent))
    image = counts.astype(np.float64)
    along = cv2.sepFilter2D(image, cv2.CV_64F, bent, smooth, borderType=cv2.BORDER_REFLECT_101)
    down = cv2.sepFilter2D(image, cv2.CV_64F, smooth, bent, borderType=cv2.BORDER_REFLECT_101)
    return (np.rint((along + down) * _STEPS) / _STEPS).astype(np.float32), float(gain)


def _peaks(response: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of maxima that are not at the image's edge; of equal neighbours all."""
    is_peak = (response == cv2.dilate(response, _PEAK)) & (response > 0)
    is_peak[[0, -1]] = False
    is_peak[:, [0, -1]] = False
    rows, columns = np.nonzero(is_peak)
    return rows, columns


def _above_noise(
    image: NDArray[np.float32],
    response: NDArray[np.float32],
    places: tuple[NDArray[np.intp], NDArray[np.intp]],
    least: float,
) -> Spots:
    """The maxima at `places` that are `least` times the noise around them, refined."""
    noise = _noise(image, *places)
    kept = response[places] > least * np.maximum(noise, 1 / _STEPS)
    rows, columns = places[0][kept], places[1][kept]
    middle = response[rows, columns].astype(np.float64)
    x = columns + 0.5 + _vertex(response[rows, columns - 1], middle, response[rows, columns + 1])
    y = rows + 0.5 + _vertex(response[rows - 1, columns], middle, response[rows + 1, columns])
    # A Gaussian of the filter's own size gives half its height.
    return Spots(np.stack([x, y], axis=1), 2 * middle)


def _vertex(before: NDArray[np.float32], middle: Floats, after: NDArray[np.float32]) -> Floats:
    """Where between -0.5 and 0.5 the parabola through three neighbours is highest."""
    bend = 2 * middle - before - after
    offset: Floats = np.clip((after - before.astype(np.float64)) / np.where(bend > 0, 2 * bend, np.inf), -0.5, 0.5)
    return offset


def _noise(image: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
    """``(S,)``: the standard deviation of a pixel around each place, by the differences of neighbours."""
    framed = cv2.copyMakeBorder(image, _WINDOW, _WINDOW, _WINDOW, _WINDOW, cv2.BORDER_REFLECT_101)
    windows = np.lib.stride_tricks.sliding_window_view(framed, (2 * _WINDOW + 1, 2 * _WINDOW + 1))
    found = np.zeros(len(rows))
    step = max(1, _PAIRS_AT_ONCE // (2 * _WINDOW + 1) ** 2)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        differences = np.abs(np.diff(windows[rows[part], columns[part]], axis=2))
        found[part] = np.median(differences.reshape(len(differences), -1), axis=1) / (_MAD * np.sqrt(2))
    return found


def _in_cells(
    positions: Floats, cells: Instances, *, margin_px: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of positions and cells whose outline holds them, or whose bounding box does if there is a margin."""
    low = np.minimum.reduceat(cells.vertices, cells.offsets[:-1]) - margin_px
    high = np.maximum.reduceat(cells.vertices, cells.offsets[:-1]) + margin_px
    step = max(1, _PAIRS_AT_ONCE // len(cells))
    spots, owners = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for start in range(0, len(positions), step):
        part = positions[start : start + step, None]
        spot, cell = np.nonzero(((part >= low) & (part < high)).all(axis=2))
        spots.append(spot + start)
        owners.append(cell)
    spot, cell = np.concatenate(spots), np.concatenate(owners)
    if margin_px > 0 or not len(spot):
        return spot, cell
    held = _crossings(positions[spot], cells, cell) % 2 == 1
    return spot[held], cell[held]


def _crossings(points: Floats, cells: Instances, owner: NDArray[np.intp]) -> NDArray[np.int64]:
    """``(P,)``: how many sides of the outline of its cell a ray from each point to the right crosses."""
    lengths = np.diff(cells.offsets)[owner]
    pair = np.repeat(np.arange(len(owner)), lengths)
    first = np.cumsum(lengths) - lengths
    side = np.arange(lengths.sum()) - first[pair]
    begins = cells.offsets[owner][pair]
    start = cells.vertices[begins + side]
    end = cells.vertices[begins + (side + 1) % lengths[pair]]
    x, y = points[pair].T
    spans = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    counted: NDArray[np.int64] = np.bincount(pair, weights=spans & (x < at), minlength=len(owner)).astype(np.int64)
    return counted
