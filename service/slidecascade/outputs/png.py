"""Arrays as PNG bytes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def encode(image: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 RGB ``(H, W, 3)`` or RGBA ``(H, W, 4)``."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode(".png", cv2.cvtColor(image, order))
    if not done:
        raise ValueError(f"OpenCV cannot write an image of {image.shape} as PNG.")
    return bytes(data)
