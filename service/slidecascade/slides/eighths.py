"""A stored level at an eighth of its size, from the mean values that JPEG tiles begin their blocks with.

A decoder that needs one pixel for each block of 8 x 8 skips most of the work, and tiles are decoded by several
threads at once, so this takes a tenth of the time that reading all pixels does. The colours are those of
OpenSlide: a few tiles are decoded both ways, and where they differ the level is not read so.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np

from slidecascade.geometry import Box, Size
from slidecascade.slides import jpeg, tiff
from slidecascade.slides.source import Rgb
from slidecascade.slides.tiff import ByteSource, Directory

EIGHTH = 8

_WHITE = 255
_CHECKED = 12
"""Tiles that are decoded both ways."""

_MOST_DIFFERENCE = 3.0
"""Mean difference of a tile's values that rounding makes; another colour space makes tens."""


def read_eighth(
    source: ByteSource, directory: Directory, size: Size, read: Callable[[Box], Rgb], threads: int
) -> Rgb | None:
    """``(ceil(H / 8), ceil(W / 8), 3)`` uint8 of a level of `size`; None: it is not stored so, or is damaged.

    Tiles without data are white. `read` gives the exact pixels of a box of the level.
    """
    if not _is_suited(directory):
        return None
    tile = directory.part_size
    columns, rows = -(-directory.size.width // tile.width), -(-directory.size.height // tile.height)
    if len(directory.part_offsets) != columns * rows or len(directory.part_bytes) != columns * rows:
        return None
    decode = partial(_decoded, source, directory)
    try:
        if not _is_alike(directory, columns, size, decode, read):
            return None
        made = np.full((rows * tile.height // EIGHTH, columns * tile.width // EIGHTH, 3), _WHITE, np.uint8)

        def fill(row: int) -> None:
            for column in range(columns):
                small = decode(row * columns + column)
                if small is not None:
                    top, left = row * tile.height // EIGHTH, column * tile.width // EIGHTH
                    made[top : top + small.shape[0], left : left + small.shape[1]] = small

        with ThreadPoolExecutor(threads, thread_name_prefix="eighth") as pool:
            list(pool.map(fill, range(rows)))
    except ValueError:  # a tile is damaged, or of another size
        return None
    return made[: -(-size.height // EIGHTH), : -(-size.width // EIGHTH)]


def _is_suited(directory: Directory) -> bool:
    tile = directory.part_size
    return (
        tiff.TILE_OFFSETS in directory.tags
        and directory.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) == tiff.JPEG_COMPRESSION
        and directory.first(tiff.SAMPLES, 1) == 3
        and directory.first(tiff.PLANAR, 1) != tiff.PLANES_APART
        and directory.first(tiff.BITS, 1) == 8
        and directory.first(tiff.PHOTOMETRIC, 0) in (tiff.RGB, tiff.YCBCR)
        and tile.width % EIGHTH == tile.height % EIGHTH == 0 < tile.area
    )


def _decoded(source: ByteSource, directory: Directory, index: int) -> Rgb | None:
    """A tile at an eighth; None: it has no data. Raises ValueError where it is damaged or has another size."""
    if not directory.part_bytes[index]:
        return None
    stream = jpeg.with_tables(directory.jpeg_tables, directory.part(source, index))
    small = jpeg.decode_eighth(stream, is_rgb=directory.first(tiff.PHOTOMETRIC, 0) == tiff.RGB)
    tile = directory.part_size
    if small.shape[:2] != (tile.height // EIGHTH, tile.width // EIGHTH):
        raise ValueError("The tile has another size than the level states.")
    return small


def _is_alike(
    directory: Directory, columns: int, size: Size, decode: Callable[[int], Rgb | None], read: Callable[[Box], Rgb]
) -> bool:
    """Whether tiles over all of the level have the colours that `read` gives them."""
    tile = directory.part_size
    stored = np.flatnonzero(directory.part_bytes)
    for index in stored[np.unique(np.linspace(0, len(stored) - 1, _CHECKED).astype(int))] if len(stored) else ():
        row, column = divmod(int(index), columns)
        box = Box(column * tile.width, row * tile.height, tile.width, tile.height)
        if box.right > size.width or box.bottom > size.height:
            continue
        exact = cv2.resize(read(box), (tile.width // EIGHTH, tile.height // EIGHTH), interpolation=cv2.INTER_AREA)
        small = decode(int(index))
        if small is None or np.abs(exact.astype(np.int16) - small).mean() > _MOST_DIFFERENCE:
            return False
    return True
