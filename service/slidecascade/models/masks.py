"""Masks of objects as the input of a translator, and its output as an image."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_EDGE: Final = np.ones((3, 3), np.uint8)


def mask_planes(labels: NDArray[np.integer[Any]], channels: int, *, multiple_of: int = 1) -> NDArray[np.float32]:
    """``(1, C, H, W)`` of 0 and 1: the foreground of `labels` ``(H, W)``, and the edges of their objects.

    Args:
        labels: 0 is background, other numbers are objects.
        channels: 1 for the foreground alone.
        multiple_of: of height and width; background is added below and to the right.
    """
    # Labels of 24 bits are exact in float32, which OpenCV dilates.
    exact = labels.astype(np.float32)
    edges = (cv2.dilate(exact, _EDGE) != cv2.erode(exact, _EDGE)) & (labels > 0)
    planes = np.stack([labels > 0, edges])[None, :channels].astype(np.float32)
    missing = [(0, 0), (0, 0), *((0, -size % multiple_of) for size in labels.shape)]
    return np.pad(planes, missing)


def drawn_image(values: NDArray[np.float32], height_px: int, width_px: int) -> NDArray[np.float32]:
    """``(H, W, C)`` of 0 to 1 of a translator's output ``(1, C, H', W')`` of at least that size."""
    image = values[0, :, :height_px, :width_px].transpose(1, 2, 0)
    return np.ascontiguousarray(image.clip(0, 1), np.float32)
