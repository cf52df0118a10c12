"""What on a bright-field slide is neither tissue nor glass: ink of pens, and tissue out of focus.

Both are judged in the blocks of `slidecascade.slides.tissue`, by measures that can be explained:

- Ink: haematoxylin and eosin, and most stains of tissue, absorb green most. A block is ink when green is what it
  absorbs least (green pens), when it absorbs far more of red than of green and is dark (blue pens), or when it is
  black.
- Out of focus: what is finer than 3 pixels has a share of the contrast between 3 and 9 pixels, which falls with
  defocus; ratios of high to low frequencies are among the measures of S. Pertuz et al., Analysis of focus measure
  operators for shape-from-focus, Pattern Recognition 2013. Contrast too low to be judged is in focus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.slides.source import Rgb
from slidecascade.slides.tissue import BLOCK_PX

GREEN_MARGIN_OD: Final = 0.15
BLUE_MARGIN_OD: Final = 0.35
BLUE_OD: Final = 0.9
BLACK_BELOW: Final = 40
UNSCANNED_BELOW: Final = 8
"""Of the mean of a block: differences of optical density, least density of red, brightest channel of black
ink and of what was never scanned, which some scanners leave black."""

MARGIN_PX: Final = 24
"""Pixels needed around a block to decide whether it is ink or out of focus."""

SHARPNESS: Final = 0.022
"""A block is out of focus below this share; real images have a median of 0.037 and more."""

MIN_CONTRAST: Final = 9.0
"""Variance of grey levels between 3 and 9 pixels from which on focus can be judged."""


@dataclass(frozen=True, slots=True)
class Flaws:
    """Areas in pixels of the grid in which tiles are cut."""

    ink_px: float = 0.0
    blurred_px: float = 0.0

    @classmethod
    def total(cls, parts: Iterable[Flaws]) -> Flaws:
        """All of `parts` together."""
        found = list(parts)
        return cls(sum(part.ink_px for part in found), sum(part.blurred_px for part in found))


def ink_blocks(patch: Rgb) -> NDArray[np.bool_]:
    """``(H / 8, W / 8)``: which blocks of a bright-field `patch`, made of whole blocks, are ink."""
    size = (patch.shape[1] // BLOCK_PX, patch.shape[0] // BLOCK_PX)
    means = cv2.resize(patch, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], 3)
    brightest = means.max(axis=2)
    red, green, blue = np.moveaxis(-np.log((means.astype(np.float32) + 1) / 256), 2, 0)
    is_green = green < np.minimum(red, blue) - GREEN_MARGIN_OD
    is_blue = (red > green + BLUE_MARGIN_OD) & (green > blue) & (red > BLUE_OD)
    ink = is_green | is_blue | ((brightest < BLACK_BELOW) & (brightest > UNSCANNED_BELOW))
    # What is less than three blocks wide is pigment or a dark nucleus, and no line of a pen.
    wide = cv2.morphologyEx(ink.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(wide > 0, np.bool_)


def blurred_blocks(patch: Rgb) -> NDArray[np.bool_]:
    """``(H / 8, W / 8)``: which blocks of a bright-field `patch`, made of whole blocks, are out of focus.

    Exact for blocks at least `MARGIN_PX` inside `patch`.
    """
    size = (patch.shape[1] // BLOCK_PX, patch.shape[0] // BLOCK_PX)
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, coarse = cv2.blur(grey, (3, 3)), cv2.blur(grey, (9, 9))
    high, middle = (_energy(part, size) for part in (grey - fine, fine - coarse))
    # Whatever edge has an effect on the middle one has one on the high one, whose squares are larger.
    high, middle = cv2.blur(high, (5, 5)), cv2.blur(middle, (3, 3))
    blurred: NDArray[np.bool_] = (middle > MIN_CONTRAST) & (high < SHARPNESS * middle)
    return blurred


def _energy(part: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The mean square of `part` over each of ``size`` (columns, rows) blocks."""
    means = cv2.resize(cv2.multiply(part, part), size, interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.float32).reshape(size[1], size[0])
