"""Masks of objects in PNG: the numbers as they are stored, neither scaled to 8 bits nor made RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.slides import pngrows

NOT_GREY = "The mask is not a grey image: send a PNG of 8 or 16 bits in which 0 is background."


def decode_mask(data: bytes, size: Size) -> NDArray[np.uint16]:
    """``(H, W)`` of the grey PNG `data`, which is of `size`; an orientation in its metadata is not applied.

    Numbers of less than 8 bits are scaled to 0 to 255.

    Raises:
        UndecodableImageError: it has colours, a palette or transparency, or is damaged.
    """
    labels = np.zeros((size.height, size.width), np.uint16)
    for band in pngrows.read_bands(data):
        if band.samples.shape[2] != 1:
            raise UndecodableImageError(NOT_GREY)
        labels[band.rows, band.columns] = band.samples[..., 0]
    return labels
