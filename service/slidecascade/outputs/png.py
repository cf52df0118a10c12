"""Arrays as PNG bytes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire

_HEADER_BYTES = 33
"""Signature and IHDR: further chunks may follow from here on."""


_ORDERS = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}


def encode(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG of grey ``(H, W, 1)``, RGB ``(H, W, 3)`` or RGBA ``(H, W, 4)``, uint8 or uint16.

    Its text ``Disclaimer`` is the research-use notice.
    """
    order = _ORDERS.get(image.shape[2])
    done, data = cv2.imencode(".png", image if order is None else cv2.cvtColor(image, order))
    if not done:
        raise ValueError(f"OpenCV cannot write an image of {image.shape} as PNG.")
    encoded = data.reshape(-1).data
    text = _text("Disclaimer", wire.RESEARCH_USE_ONLY)
    return b"".join((encoded[:_HEADER_BYTES], text, encoded[_HEADER_BYTES:]))


def _text(keyword: str, text: str) -> bytes:
    """An uncompressed iTXt chunk without language (PNG specification, 3rd edition, 11.3.3.4)."""
    body = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
