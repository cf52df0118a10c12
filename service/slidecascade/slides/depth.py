"""16-bit samples brought to 8 bits, by one rule for the whole image.

- Grey (a camera's counts): the 0.1th and 99.9th percentile become 0 and 255, linear between, so that 12-bit
  data in a 16-bit file is not shown nearly black. Counts are never spread by more than one grey level
  each: an empty field stays flat instead of turning its noise into structure.
- Colour: divided by the full scale of the fewest bits out of 8, 10, 12, 14 and 16 that hold the largest
  sample. One factor for all channels, because stain colours carry meaning.

Both depend on all pixels of the image, once; never on a tile.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9


def narrow_grey(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """``(H, W)`` uint16 to uint8 by percentiles."""
    # calcHist counts in place; bincount would first copy the image to 64 bits a sample.
    counts = cv2.calcHist([samples], [0], None, [65536], [0, 65536])
    cumulated = np.cumsum(counts, dtype=np.float64)
    shares = np.array([LOW_PERCENT, HIGH_PERCENT]) / 100 * cumulated[-1]
    low, high = np.searchsorted(cumulated, shares)
    return _scaled(samples, low=int(low), high=max(int(high), int(low) + 255))


def narrow_colour(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """``(H, W, C)`` uint16 to uint8 by bit depth."""
    largest = int(samples.max())
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    return _scaled(samples, low=0, high=(1 << bits) - 1)


def _scaled(samples: NDArray[np.uint16], *, low: int, high: int) -> NDArray[np.uint8]:
    levels = np.arange(65536, dtype=np.float64)
    table = np.clip(np.rint((levels - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    narrowed: NDArray[np.uint8] = table[samples]
    return narrowed
