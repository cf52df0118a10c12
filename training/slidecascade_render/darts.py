"""Hard-core point patterns that can be computed window by window.

Points are darts on a jittered lattice; of two that are too close the one of better rank stays (after Matern
1960). A few rounds fill most of the holes, and what survives depends on the neighbourhood alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from slidecascade_render.lattice import Floats, Keys, place_keys, uniform
from slidecascade_render.window import Bools, Window

ROUNDS: Final = 4
SPACING: Final = 0.86  # of the sum of two radii
_Slices = tuple[slice, slice]


def places(seed: int, channel: int, window: Window, pitch_um: float) -> tuple[Floats, Floats, Keys]:
    """Jittered lattice points, as a (rows, columns) grid, of all lattice squares that touch the window."""
    columns = np.arange(np.floor(window.left_um / pitch_um), np.floor(window.right_um / pitch_um) + 1)
    rows = np.arange(np.floor(window.top_um / pitch_um), np.floor(window.bottom_um / pitch_um) + 1)
    column, row = np.meshgrid(columns.astype(np.int64), rows.astype(np.int64))
    keys = place_keys(seed, channel, column, row)
    return (column + uniform(keys, 90)) * pitch_um, (row + uniform(keys, 91)) * pitch_um, keys


def thinned(x: Floats, y: Floats, radius: Floats, rank: Floats, undecided: Bools, *, pitch_um: float) -> Bools:
    """Keep lattice points, best rank first, so that no two are closer than their radii allow; a few rounds."""
    span = int(np.ceil(2 * SPACING * float(radius.max(initial=0.0)) / pitch_um)) + 1
    clashes = [
        (here, there, _too_close(x, y, radius, here, there)) for here, there in neighbour_slices(x.shape, span)
    ]
    kept = np.zeros_like(undecided)
    for _ in range(ROUNDS):
        waiting = np.where(undecided, rank, -1.0)
        winners = undecided.copy()
        for here, there, clash in clashes:
            winners[here] &= ~(clash & (waiting[there] > waiting[here]))
        kept |= winners
        undecided = undecided & ~winners
        for here, there, clash in clashes:
            undecided[here] &= ~(winners[there] & clash)
    return kept


def neighbour_slices(shape: tuple[int, ...], span: int) -> list[tuple[_Slices, _Slices]]:
    """Pairs of grid slices that line every point up with each neighbour up to `span` steps away."""

    def cut(step: int, size: int) -> tuple[slice, slice]:
        return slice(max(0, -step), size - max(0, step)), slice(max(0, step), size + min(0, step))

    pairs = []
    for down in range(-span, span + 1):
        for across in range(-span, span + 1):
            if (down, across) == (0, 0):
                continue
            rows, columns = cut(down, shape[0]), cut(across, shape[1])
            pairs.append(((rows[0], columns[0]), (rows[1], columns[1])))
    return pairs


def _too_close(x: Floats, y: Floats, radius: Floats, here: _Slices, there: _Slices) -> Bools:
    limit = SPACING * (radius[here] + radius[there])
    close: Bools = (x[here] - x[there]) ** 2 + (y[here] - y[there]) ** 2 < limit**2
    return close
