"""Where there is tissue: the glass test.

The grid of a model is divided into blocks of 8 x 8 pixels, counted from the grid's origin. A block is glass
when its mean colour is bright and unsaturated; a block is tissue when it, or one within two blocks of it, is
not glass. So thin or pale structures next to stained ones count as tissue, and so do all but the very
middle of large fat vacuoles.

A tile without a tissue block in its core is not worth segmenting. That skips no cell, whatever the tile
size, as long as a cell is dropped everywhere when the point that decides which tile owns it lies on a block
that is not tissue: both questions are asked of the same blocks, whose value depends on their place only.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.slides.source import Rgb

BLOCK_PX = 8
"""Side of a block in grid pixels; a patch must start on a multiple of it for its blocks to be the grid's."""

REACH_BLOCKS = 2
"""How far tissue reaches beyond the blocks that are not glass."""

MARGIN_PX = BLOCK_PX * REACH_BLOCKS
"""Pixels needed around a block to decide whether it is tissue."""

GLASS_MIN, GLASS_SPREAD = 210, 20
"""A glass block's darkest channel is at least this, and its channels differ by at most this.

Chosen on scans whose glass is 240 to 255 (Aperio), 238 to 241 (GTEx) and 214 to 222 (HuBMAP). With them no
nucleus of the 458 of NuCLS and the 4550 in the colour bright-field images of DSB 2018 is off tissue, and 1 of
the 1340 in its grey bright-field images.
"""

DARK_FIELD_BELOW = 96
"""Median brightness between fluorescence (DSB 2018: at most 44) and transmitted light (at least 147)."""


def is_dark_field(overview: Rgb) -> bool:
    """Whether the image is of light on black, where bright means signal and nothing is glass.

    To be asked once for a region, with all of it in view: ``(H, W, 3)`` uint8 at any scale.
    """
    return bool(np.median(_darkest_and_brightest(overview)[1]) < DARK_FIELD_BELOW)


def glass_blocks(patch: Rgb) -> NDArray[np.bool_]:
    """``(H / 8, W / 8)``: which blocks of `patch` are glass.

    Raises:
        ValueError: `patch` is not made of whole blocks.
    """
    height, width = patch.shape[:2]
    if height % BLOCK_PX or width % BLOCK_PX:
        raise ValueError(f"A patch of {width} x {height} is not made of {BLOCK_PX} x {BLOCK_PX} blocks.")
    means = cv2.resize(patch, (width // BLOCK_PX, height // BLOCK_PX), interpolation=cv2.INTER_AREA)
    darkest, brightest = _darkest_and_brightest(means)
    glass: NDArray[np.bool_] = (darkest >= GLASS_MIN) & (brightest - darkest <= GLASS_SPREAD)
    return glass


def tissue_blocks(patch: Rgb, *, dark_field: bool) -> NDArray[np.bool_]:
    """``(H / 8, W / 8)``: which blocks of `patch` are tissue; all of them in a dark-field image.

    Exact for blocks at least `MARGIN_PX` inside `patch`; nearer to its edge, tissue outside is not seen.

    Raises:
        ValueError: `patch` is not made of whole blocks.
    """
    stained = ~glass_blocks(patch) | dark_field
    side = 2 * REACH_BLOCKS + 1
    spread: NDArray[np.bool_] = cv2.dilate(stained.view(np.uint8), np.ones((side, side), np.uint8)) > 0
    return spread


def signal_blocks(patch: NDArray[np.uint16], signal: Sequence[float]) -> NDArray[np.bool_]:
    """``(H / 8, W / 8)``: which blocks of scaled channels are near signal; of an empty field none.

    A block has signal when the mean of a channel reaches that channel's `signal`, and counts as tissue when it, or
    one within two blocks of it, has. Exact as `tissue_blocks` is.

    Args:
        patch: ``(H, W, C)`` uint16 as `slidecascade.slides.channels` scales it, made of whole blocks.
        signal: ``(C,)`` on the same scale.
    """
    size = (patch.shape[1] // BLOCK_PX, patch.shape[0] // BLOCK_PX)
    means = cv2.resize(patch, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    has_signal = (means >= np.asarray(signal)).any(axis=2)
    side = 2 * REACH_BLOCKS + 1
    spread: NDArray[np.bool_] = cv2.dilate(has_signal.view(np.uint8), np.ones((side, side), np.uint8)) > 0
    return spread


def _darkest_and_brightest(rgb: Rgb) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    red, green, blue = cv2.split(rgb)
    darkest, brightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(darkest, np.uint8), np.asarray(brightest, np.uint8)
