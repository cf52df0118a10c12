"""16-bit samples brought to 8 bits, by one rule for the whole image.

- Grey (a camera's counts): the 0.1th and 99.9th percentile become 0 and 255, linear between, so that 12-bit
  data in a 16-bit file is not shown nearly black. Counts are never spread by more than one grey level
  each: an empty field stays flat instead of turning its noise into structure.
- Colour: divided by the full scale of the fewest bits out of 8, 10, 12, 14 and 16 that hold the largest
  sample. One factor for all channels, because stain colours carry meaning.

Both depend on all pixels of the image, once; never on a tile. Samples come in bands, so that they are never all
held: both rules are tables of 65,536 entries.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9
_LEVELS = 65536


class GreyScale:
    """Counts the grey samples of an image, band by band; then gives the table that narrows them."""

    def __init__(self) -> None:
        self._counts = np.zeros(_LEVELS, np.int64)

    @property
    def counted(self) -> bool:
        return bool(self._counts.any())

    def count(self, samples: NDArray[np.uint16]) -> None:
        """Take in ``(h, w)`` uint16 samples."""
        counts = cv2.calcHist([np.ascontiguousarray(samples)], [0], None, [_LEVELS], [0, _LEVELS])
        self._counts += counts.ravel().astype(np.int64)

    def table(self) -> NDArray[np.uint8]:
        """``(65536,)`` uint8: the grey level of each sample, by percentiles."""
        cumulated = np.cumsum(self._counts)
        shares = np.array([LOW_PERCENT, HIGH_PERCENT]) / 100 * float(cumulated[-1])
        low, high = np.searchsorted(cumulated, shares)
        return _table(low=int(low), high=max(int(high), int(low) + 255))


def bits_for(largest: int) -> int:
    """The depth of a camera whose largest sample is `largest`."""
    return next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)


@cache
def colour_table(bits: int) -> NDArray[np.uint8]:
    """``(65536,)`` uint8: the value of each colour sample of `bits`."""
    table = _table(low=0, high=(1 << bits) - 1)
    table.flags.writeable = False
    return table


def _table(*, low: int, high: int) -> NDArray[np.uint8]:
    levels = np.arange(_LEVELS, dtype=np.float64)
    table: NDArray[np.uint8] = np.clip(np.rint((levels - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    return table
