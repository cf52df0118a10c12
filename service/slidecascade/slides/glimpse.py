"""A coarse picture of a slide from a few of its pixels, to be shown until its own coarse levels are made."""

from __future__ import annotations

import math
import time
from typing import Final

import cv2
import numpy as np

from slidecascade.geometry import Box, Size
from slidecascade.slides.source import Pictured, Rgb

_SAMPLE_PX: Final = 32
"""Side of the square of level 0 whose mean is a pixel of the picture."""

_SIDES: Final = (4, 8, 16, 32, 64)
"""Pixels along the longer side of the picture, one attempt after another."""

_BUDGET_S: Final = 0.2
"""A finer picture is begun, and gone on with, within this time only; the first one is always finished."""


def glimpse_of(slide: Pictured) -> Rgb:
    """The finest picture of the whole slide that can be read in a fifth of a second, ``(h, w, 3)`` uint8.

    Raises:
        UnreadableSlideError: the file is damaged.
    """
    ends_at = time.monotonic() + _BUDGET_S
    first, *finer = _SIDES
    made = _sampled(slide, first)
    for side in finer:
        try:
            made = _sampled(slide, side, ends_at=ends_at)
        except TimeoutError:
            break
    return made


def cut(glimpse: Rgb, box: Box, whole: Size) -> Rgb:
    """The part `box` of a picture of the slide that has `whole` pixels, blurred as it must be."""
    across, down = glimpse.shape[1] / whole.width, glimpse.shape[0] / whole.height
    to_glimpse = np.array(
        [
            [across, 0.0, (box.x + 0.5) * across - 0.5],
            [0.0, down, (box.y + 0.5) * down - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (box.width, box.height)
    return np.asarray(
        cv2.warpAffine(glimpse, to_glimpse, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _sampled(slide: Pictured, side: int, *, ends_at: float = math.inf) -> Rgb:
    """A picture whose longer side has `side` pixels; raises TimeoutError when it was not finished by then."""
    size = slide.size_l0
    step = max(size.width, size.height) / side
    columns, rows = max(1, round(size.width / step)), max(1, round(size.height / step))
    made = np.empty((rows, columns, 3), np.uint8)
    for row in range(rows):
        if time.monotonic() > ends_at:
            raise TimeoutError
        for column in range(columns):
            width, height = min(_SAMPLE_PX, size.width), min(_SAMPLE_PX, size.height)
            x = min(int((column + 0.5) * size.width / columns), size.width - width)
            y = min(int((row + 0.5) * size.height / rows), size.height - height)
            made[row, column] = slide.read_level(0, Box(x, y, width, height)).mean(axis=(0, 1))
    return made
