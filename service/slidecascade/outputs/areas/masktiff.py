"""Masks as tiled, pyramidal TIFF files that OpenSlide and QuPath open, written band by band.

8-bit greys, which are the numbers of classes, in a BigTIFF of deflated tiles; a level has half the width and
height of the one before, and the value of the upper left of each four pixels, so that values stay numbers of
classes.
TIFF 6.0 and the BigTIFF layout of libtiff.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Mpp, Size

TILE_PX: Final = 256
TOP_PX: Final = 512
"""Longest side of the smallest level."""

_SHORT, _LONG, _RATIONAL, _LONG8 = 3, 4, 5, 16
_FORMATS: Final = {_SHORT: "H", _LONG: "I", _RATIONAL: "II", _LONG8: "Q"}
_DEFLATE, _MIN_IS_BLACK, _CENTIMETRE = 8, 1, 3

Rows = Callable[[int, int], NDArray[np.uint8]]
"""The rows ``top..bottom - 1`` of a mask, ``(bottom - top, width)``."""


def write(file: BinaryIO, rows: Rows, size: Size, *, mpp: Mpp) -> None:
    """Write a mask of `size` pixels of `mpp` micrometres to `file`, which can seek.

    A band of `TILE_PX` rows of each level is in memory at a time.
    """
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
    levels = list(_levels(size))
    for top in range(0, size.height, TILE_PX):
        levels[0].add(file, rows(top, min(top + TILE_PX, size.height)), levels[1:])
    for level in levels:
        level.finish(file, levels[level.index + 1 :])
    link = 8
    for level in levels:
        link = _write_directory(file, link, level.tags(mpp))


@dataclass(slots=True)
class _Level:
    index: int
    size: Size
    _waiting: NDArray[np.uint8] = field(init=False)
    _offsets: list[int] = field(init=False, default_factory=list)
    _lengths: list[int] = field(init=False, default_factory=list)
    _rows_seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._waiting = np.zeros((0, self.size.width), np.uint8)

    def add(self, file: BinaryIO, band: NDArray[np.uint8], smaller: list[_Level]) -> None:
        """Rows from top to bottom; whole bands of tiles are written, and handed on to the next level."""
        self._waiting = np.concatenate([self._waiting, band])
        while len(self._waiting) >= TILE_PX:
            self._write(file, self._waiting[:TILE_PX], smaller)
            self._waiting = self._waiting[TILE_PX:]

    def finish(self, file: BinaryIO, smaller: list[_Level]) -> None:
        """The last rows."""
        if len(self._waiting):
            self._write(file, self._waiting, smaller)
            self._waiting = self._waiting[:0]

    def tags(self, mpp: Mpp) -> list[tuple[int, int, list[int]]]:
        """The level's directory."""
        per_cm = Fraction(1e4 / (mpp * 2**self.index)).limit_denominator(10_000)
        resolution = [per_cm.numerator, per_cm.denominator]
        return [
            (254, _LONG, [int(self.index > 0)]),
            (256, _LONG, [self.size.width]),
            (257, _LONG, [self.size.height]),
            (258, _SHORT, [8]),
            (259, _SHORT, [_DEFLATE]),
            (262, _SHORT, [_MIN_IS_BLACK]),
            (277, _SHORT, [1]),
            (282, _RATIONAL, resolution),
            (283, _RATIONAL, resolution),
            (284, _SHORT, [1]),
            (296, _SHORT, [_CENTIMETRE]),
            (322, _LONG, [TILE_PX]),
            (323, _LONG, [TILE_PX]),
            (324, _LONG8, self._offsets),
            (325, _LONG8, self._lengths),
        ]

    def _write(self, file: BinaryIO, band: NDArray[np.uint8], smaller: list[_Level]) -> None:
        for left in range(0, self.size.width, TILE_PX):
            tile = np.zeros((TILE_PX, TILE_PX), np.uint8)
            part = band[:, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            data = zlib.compress(tile.tobytes(), 1)
            self._offsets.append(file.tell())
            self._lengths.append(len(data))
            file.write(data)
        if smaller:
            smaller[0].add(file, band[self._rows_seen % 2 :: 2, ::2], smaller[1:])
        self._rows_seen += len(band)


def _levels(size: Size) -> Iterator[_Level]:
    index = 0
    yield _Level(index, size)
    while max(size.width, size.height) > TOP_PX:
        index += 1
        size = Size(-(-size.width // 2), -(-size.height // 2))
        yield _Level(index, size)


def _write_directory(file: BinaryIO, link: int, tags: list[tuple[int, int, list[int]]]) -> int:
    """Write a directory, and its place at `link`; where the place of the next one belongs."""
    entries = []
    for tag, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{_FORMATS[kind][0]}", *values)
        if len(packed) > 8:
            place = _aligned(file)
            file.write(packed)
            packed = struct.pack("<Q", place)
        entries.append(struct.pack("<HHQ8s", tag, kind, len(values) // len(_FORMATS[kind]), packed))
    start = _aligned(file)
    file.write(struct.pack("<Q", len(entries)) + b"".join(entries))
    following = file.tell()
    file.write(struct.pack("<Q", 0))
    file.seek(link)
    file.write(struct.pack("<Q", start))
    file.seek(0, 2)
    return following


def _aligned(file: BinaryIO) -> int:
    """The end of the file, moved to a multiple of eight."""
    file.write(b"\0" * (-file.tell() % 8))
    return file.tell()
