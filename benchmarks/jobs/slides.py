"""Slides of any size for measurements: one rendered block of tissue, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import tifffile

from slidecascade_render.liver.tissue import TissueOptions, render

MPP: Final = 0.25
BLOCK_PX: Final = 2048
_TILE_PX: Final = 1024


def write(path: Path, side_px: int) -> None:
    """Tissue of `side_px` x `side_px` px, a multiple of `BLOCK_PX`, at `MPP`."""
    block = render(TissueOptions(seed=1, mpp=MPP), width_px=BLOCK_PX, height_px=BLOCK_PX).image
    per_side = side_px // BLOCK_PX
    _write(path, np.tile(block, (per_side, per_side, 1)))


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


def _write(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="zlib")
