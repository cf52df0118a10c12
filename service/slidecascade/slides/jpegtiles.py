"""Tiles of TIFF slides in JPEG, decoded without OpenSlide, pixel for pixel as it decodes them.

OpenSlide converts each tile to premultiplied ARGB, paints it on a canvas and is asked for RGBA; a large box takes
about twice as long so as to decode its tiles and copy them. Whatever is unusual is left to OpenSlide, which also
says what is damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from slidecascade.geometry import Box
from slidecascade.slides import jpeg, tiff
from slidecascade.slides.source import Rgb
from slidecascade.slides.tiff import ByteSource, Directory

LEAST_USED: Final = 0.4
"""The part of the decoded pixels that must be asked for: OpenSlide keeps the tiles of small boxes."""

_SPACES: Final = {tiff.RGB: "RGB", tiff.YCBCR: "YCbCr"}


@dataclass(frozen=True, slots=True)
class JpegLevel:
    """A level of which every tile is a JPEG stream of three channels.

    Attributes:
        tables: what the streams share.
        space: their colour space, as the directory states it.
    """

    directory: Directory
    tables: bytes
    space: str

    @classmethod
    def of(cls, directory: Directory) -> JpegLevel | None:
        """The level, of a directory whose tiles OpenSlide decodes itself; None when it stores anything else."""
        space = _SPACES.get(directory.first(tiff.PHOTOMETRIC, 0))
        lengths = len(directory.part_offsets), len(directory.part_bytes)
        if space is None or directory.first(tiff.COMPRESSION, 1) != tiff.JPEG_COMPRESSION:
            return None
        return cls(directory, directory.jpeg_tables, space) if lengths == (directory.part_count,) * 2 else None

    def read(self, source: ByteSource, box: Box) -> Rgb | None:
        """The pixels of `box`, which lies inside the level; None: OpenSlide is to read it."""
        indices, place = self._touched(box)
        if box.area < LEAST_USED * place.area or not self.directory.part_bytes[indices].all():
            return None
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        size = self.directory.part_size
        for row, column in np.ndindex(indices.shape):
            tile = self._decoded(source, int(indices[row, column]))
            if tile is None:
                return None
            at = Box(place.x + column * size.width, place.y + row * size.height, size.width, size.height)
            part = at.clipped(box)
            cut = tile[part.y - at.y : part.bottom - at.y, part.x - at.x : part.right - at.x]
            pixels[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x] = cut
        return pixels

    def _touched(self, box: Box) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], Box]:
        """``(rows, columns)`` indices of the tiles that hold pixels of `box`, and the box that they cover."""
        width, height = self.directory.part_size.width, self.directory.part_size.height
        across = -(-self.directory.size.width // width)
        rows = np.arange(box.y // height, -(-box.bottom // height))
        columns = np.arange(box.x // width, -(-box.right // width))
        covered = Box(int(columns[0]) * width, int(rows[0]) * height, len(columns) * width, len(rows) * height)
        return rows[:, None] * across + columns, covered

    def _decoded(self, source: ByteSource, index: int) -> Rgb | None:
        data = jpeg.with_tables(self.tables, self.directory.part(source, index))
        return jpeg.decode_tile(data, self.directory.part_size, self.space)


@dataclass(frozen=True, slots=True)
class JpegTiles:
    """The levels of a slide; None where OpenSlide reads them. Reading from several threads at a time is fine."""

    source: ByteSource | None = None
    levels: Sequence[JpegLevel | None] = ()

    def read(self, level: int, box: Box) -> Rgb | None:
        """See `JpegLevel.read`."""
        found = self.levels[level] if self.levels else None
        return None if found is None or self.source is None else found.read(self.source, box)
