"""Slides of any size for measurements: one rendered block of tissue, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import tifffile

from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_render.slides import write_pyramid

MPP: Final = 0.25
BLOCK_PX: Final = 2048
_TILE_PX: Final = 1024


def write(path: Path, side_px: int) -> None:
    """Tissue of `side_px` x `side_px` px at `MPP`, as scanners store it: tiles of JPEG, and smaller levels."""
    block = render(TissueOptions(seed=1, mpp=MPP), width_px=BLOCK_PX, height_px=BLOCK_PX).image

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        rows, columns = (y_px + np.arange(height_px)) % BLOCK_PX, (x_px + np.arange(width_px)) % BLOCK_PX
        return block[rows[:, None], columns]

    write_pyramid(path, draw, side_px, side_px, mpp=MPP)


def write_glass(path: Path, side_px: int) -> None:
    """Glass of `side_px` x `side_px` px, a multiple of 1024, of which no pixel is held in memory."""
    tile = np.full((_TILE_PX, _TILE_PX, 3), 240, np.uint8)
    count = (side_px // _TILE_PX) ** 2
    tifffile.imwrite(
        path,
        (tile for _ in range(count)),
        shape=(side_px, side_px, 3),
        dtype=np.uint8,
        tile=(_TILE_PX, _TILE_PX),
        photometric="rgb",
        compression="zlib",
        bigtiff=True,
    )
