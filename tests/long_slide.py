"""A slide that is long enough for several fields and quick to write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from toy_pipeline import blobs

WIDTH, HEIGHT = 12_500, 420
MPP = 0.5


def write_long_slide(path: Path, *, seed: int = 3) -> None:
    """Blobs on a tiled TIFF of `WIDTH` x `HEIGHT` px that states no pixel size."""
    image = np.concatenate([blobs(seed + index, 1250, HEIGHT, 250) for index in range(10)], axis=1)
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="zlib")
