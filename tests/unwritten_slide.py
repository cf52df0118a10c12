"""Slides whose writer died: the directory states tiles of which there are no bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tifffile
from numpy.typing import NDArray


def write_unwritten(path: Path, pixels: NDArray[Any], *, tile_px: int, unwritten: int) -> None:
    """A deflate slide of ``(H, W, 3)`` pixels without the bytes of its last `unwritten` tiles."""
    options = {"tile": (tile_px, tile_px), "photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, pixels, **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags
        for name in ("TileOffsets", "TileByteCounts"):
            stated = list(tags[name].value)
            tags[name].overwrite([*stated[: len(stated) - unwritten], *[0] * unwritten])
