"""Slides of one colour, and the colour read of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from slidecascade.geometry import Box
from slidecascade.slides.store import SlideStore


def write_slide(path: Path, value: int = 200, side: int = 64) -> Path:
    """A one-colour tiled TIFF that OpenSlide opens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), value, np.uint8)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb")
    return path


def first_pixel(store: SlideStore, slide_id: str) -> int:
    with store.open(slide_id) as slide:
        return int(slide.read_level(0, Box(0, 0, 1, 1))[0, 0, 0])
