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

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9

COLOUR_BITS = (8, 10, 12, 14, 16)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Samples of `low` and less become 0, of `high` and more 255; linear between, rounded to nearest."""

    low: int
    high: int

    def apply(self, samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """uint16 of any shape to uint8 of the same shape."""
        narrowed: NDArray[np.uint8] = self.table[samples]
        return narrowed

    @property
    def table(self) -> NDArray[np.uint8]:
        """``(65536,)`` uint8: what each sample becomes."""
        levels = np.arange(65536, dtype=np.float64)
        return np.clip(np.rint((levels - self.low) * (255 / (self.high - self.low))), 0, 255).astype(np.uint8)


def grey_counts(samples: NDArray[np.uint16]) -> NDArray[np.float64]:
    """How often each of the 65536 values occurs in ``(H, W)`` samples."""
    # calcHist counts in place; bincount would first copy the image to 64 bits a sample.
    return np.asarray(cv2.calcHist([samples], [0], None, [65536], [0, 65536]), np.float64).ravel()


def grey_narrowing(counts: NDArray[np.float64]) -> Narrowing:
    """For grey images with so many samples of each value."""
    cumulated = np.cumsum(counts, dtype=np.float64)
    shares = np.array([LOW_PERCENT, HIGH_PERCENT]) / 100 * cumulated[-1]
    low, high = np.searchsorted(cumulated, shares)
    return Narrowing(int(low), max(int(high), int(low) + 255))


def colour_narrowing(largest: int) -> Narrowing:
    """For colour images whose largest sample of any channel is this."""
    bits = next(bits for bits in COLOUR_BITS if largest < 1 << bits)
    return Narrowing(0, (1 << bits) - 1)
