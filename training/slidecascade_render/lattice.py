"""Random numbers that depend on a place, not on the order of drawing.

A plane without end can be rendered window by window only if every random choice is a function of where it is
taken. `uniform` hashes integer coordinates; `Noise` is a smooth random field in micrometres. Both give the same
value for the same position in every window.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]  # float64: places and sizes
Field = npt.NDArray[np.floating[Any]]  # float32: one value for each pixel
Keys = npt.NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_TILE: Final = 1024  # lattice points per period: far more than one window shows


def _mix(state: Keys) -> Keys:
    """Splitmix64's output function (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def place_keys(seed: int, channel: int, column: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> Keys:
    """One uint64 for each lattice place (column, row); `channel` keeps independent uses apart."""
    start = np.full(np.broadcast(column, row).shape, (seed * 1_000_003 + channel) % 2**64, dtype=np.uint64)
    state = _mix(start + _GOLDEN)
    state = _mix(state ^ (column.astype(np.uint64) + _GOLDEN))
    return _mix(state ^ (row.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)))


def uniform(keys: Keys, channel: int) -> Floats:
    """Uniform numbers in [0, 1), one for each key, independent between channels."""
    salt = np.uint64((channel * 0xA24BAED4963EE407 + 0x632BE59BD9B4E019) % 2**64)
    return (_mix(keys ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def between(keys: Keys, channel: int, low: float, high: float) -> Floats:
    """Uniform numbers in [low, high), one for each key."""
    spread: Floats = low + (high - low) * uniform(keys, channel)
    return spread


def normal(keys: Keys, channel: int) -> Floats:
    """Standard normal numbers, one for each key (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(keys, 2 * channel + 1)))
    draws: Floats = radius * np.cos(2.0 * np.pi * uniform(keys, 2 * channel))
    return draws


@functools.lru_cache(maxsize=64)
def _tile(seed: int, channel: int) -> Field:
    """A period of lattice values, float32 (1024, 1024), uniform in [-1, 1)."""
    generator = np.random.default_rng([seed % 2**63, channel])
    tile: Field = generator.random((_TILE, _TILE), dtype=np.float32) * 2.0 - 1.0
    tile.setflags(write=False)
    return tile


@functools.lru_cache(maxsize=4)
def _white(seed: int) -> Field:
    generator = np.random.default_rng([seed % 2**63, 77])
    tile = generator.standard_normal((_TILE, _TILE, 3), dtype=np.float32)
    tile.setflags(write=False)
    return tile


def white_noise(seed: int, *, x_px: int, y_px: int, width_px: int, height_px: int) -> Field:
    """Standard normal noise for pixels, float32 (H, W, 3), a function of the pixel's index in the plane."""
    rows = np.arange(y_px, y_px + height_px) % _TILE
    columns = np.arange(x_px, x_px + width_px) % _TILE
    return _white(seed)[np.ix_(rows, columns)]


class Noise:
    """Smooth value noise (after Perlin 1985) of a given pitch, in [-1, 1], over a plane in micrometres.

    The lattice repeats after 1024 pitches; sums of fields with unrelated pitches never show it.
    """

    __slots__ = ("_lattice", "_pitch_um", "_shift_um")

    def __init__(self, seed: int, channel: int, pitch_um: float) -> None:
        self._lattice = _tile(seed, channel)
        self._pitch_um = pitch_um
        self._shift_um = 0.37 * pitch_um * channel

    def _split(self, at_um: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Field]:
        """Lattice index below, lattice index above, faded fraction."""
        steps = (at_um + self._shift_um) / self._pitch_um
        below = np.floor(steps)
        fraction = steps - below
        index = below.astype(np.int64)
        faded = fraction * fraction * (3.0 - 2.0 * fraction)
        return index % _TILE, (index + 1) % _TILE, faded.astype(np.float32)

    def over(self, x_um: Floats, y_um: Floats) -> Field:
        """The field on the grid of columns `x_um` (W,) and rows `y_um` (H,): float32 (H, W)."""
        left, right, across = self._split(x_um)
        top, bottom, down = self._split(y_um)
        rows = np.union1d(top, bottom)
        strip = self._lattice[rows]
        strip = strip[:, left] * (1.0 - across) + strip[:, right] * across
        upper: Field = strip[np.searchsorted(rows, top)]
        upper += (strip[np.searchsorted(rows, bottom)] - upper) * down[:, None]
        return upper

    def at(self, x_um: Floats, y_um: Floats) -> Floats:
        """The field at the points (x, y): float64, shaped as the points."""
        left, right, across = self._split(x_um)
        top, bottom, down = self._split(y_um)
        upper = self._lattice[top, left] * (1.0 - across) + self._lattice[top, right] * across
        lower = self._lattice[bottom, left] * (1.0 - across) + self._lattice[bottom, right] * across
        between_rows: Floats = (upper * (1.0 - down) + lower * down).astype(np.float64)
        return between_rows
