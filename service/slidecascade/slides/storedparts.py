"""The strips and tiles an image or slide is stored in, and which of them are damaged.

JPEG, JPEG 2000 and deflate alone are judged: libtiff fills up JPEG with grey, OpenJPEG decodes what is there, and
Pillow's libtiff does not look at the checksum of deflate; of every other compression it reports what is missing.
Not judged is JPEG of TIFF's first specification (compression 6), which no program has written for decades.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from slidecascade.geometry import Box, Size
from slidecascade.slides import jpeg, jpeg2000, tiff
from slidecascade.slides.tiff import ByteSource, Directory

_JUDGED = frozenset((tiff.JPEG_COMPRESSION, *tiff.JPEG_2000_COMPRESSIONS, *tiff.DEFLATE_COMPRESSIONS))
_JPEG_SCAN, _MAX_JPEG_SCANS = b"\xff\xda", 100
_UNKNOWN, _WHOLE, _DAMAGED = 0, 1, 2

_DEFLATED_BYTES = 2**14
"""Bytes inflated at a time, to at most a thousand times as many."""


def part_damage(source: ByteSource, directory: Directory, index: int) -> str | None:
    """What is damaged in a stored strip or tile of a TIFF; None when it is whole, empty, or cannot be judged."""
    lengths = directory.part_bytes
    if index >= len(lengths) or not lengths[index]:
        return None if index < len(lengths) else "its length is not stored"
    compression = directory.first(tiff.COMPRESSION, 1)
    if compression == tiff.JPEG_COMPRESSION:
        stream = directory.part(source, index)
        if stream.count(_JPEG_SCAN) > _MAX_JPEG_SCANS:
            return f"more than {_MAX_JPEG_SCANS} scans"  # each is a pass over the whole part
        return jpeg.damage(jpeg.with_tables(directory.jpeg_tables, stream))
    if compression in tiff.JPEG_2000_COMPRESSIONS:
        return jpeg2000.damage(directory.part(source, index))
    if compression in tiff.DEFLATE_COMPRESSIONS:
        return _deflate_damage(directory.part(source, index), most_bytes=_unpacked_bytes(directory))
    return None


def _unpacked_bytes(directory: Directory) -> int:
    """Bytes of a strip or tile, all its samples, when it is not compressed."""
    bits = directory.first(tiff.BITS, 1) * directory.first(tiff.SAMPLES, 1)
    return -(-directory.part_size.width * bits // 8) * directory.part_size.height


def _deflate_damage(data: bytes, *, most_bytes: int) -> str | None:
    """What is wrong in a zlib stream (RFC 1950), inflated piece by piece and thrown away.

    It holds `most_bytes` at most; one that holds more is not inflated to its end.
    """
    stream, view = zlib.decompressobj(), memoryview(data)
    try:
        for start in range(0, len(data), _DEFLATED_BYTES):
            most_bytes -= len(stream.decompress(view[start : start + _DEFLATED_BYTES]))
            if most_bytes < 0:
                return "more deflate data than there are pixels"
            if stream.eof:
                return None
    except zlib.error as error:
        return f"deflate data, {error}"
    return "premature end of deflate data"


def first_damage(source: ByteSource, directory: Directory) -> str | None:
    """What is damaged in the first damaged part of a TIFF image, which is named; None when there is none."""
    parts = min(len(directory.part_offsets), directory.part_count)
    if directory.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) not in _JUDGED:
        return None  # soon, for there may be a million parts
    for index in range(parts):
        if (damage := part_damage(source, directory, index)) is not None:
            kind = "tile" if tiff.TILE_OFFSETS in directory.tags else "strip"
            return f"{damage}, in {kind} {index} of {parts}"
    return None


class OpenFile:
    """A file as a `ByteSource`; readable from several threads at a time.

    Raises:
        OSError: it cannot be opened, or later not read.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class StoredLevel:
    """A level as a grid of stored parts, row by row from the level's corner.

    `damage` says what is damaged in the part of an index; None when it is whole.
    """

    part_size: Size
    columns: int
    rows: int
    damage: Callable[[int], str | None]

    @classmethod
    def of_size(cls, size: Size, part_size: Size, damage: Callable[[int], str | None]) -> Self:
        """The grid that covers `size`."""
        columns, rows = -(-size.width // part_size.width), -(-size.height // part_size.height)
        return cls(part_size, columns, rows, damage)

    def box(self, index: int) -> Box:
        """Where a part is, in pixels of the level."""
        row, column = divmod(index, self.columns)
        width, height = self.part_size.width, self.part_size.height
        return Box(column * width, row * height, width, height)

    def touched(self, box: Box) -> list[int]:
        """Indices of the parts that hold pixels of `box`."""
        width, height = self.part_size.width, self.part_size.height
        return [
            row * self.columns + column
            for row in range(box.y // height, min(-(-box.bottom // height), self.rows))
            for column in range(box.x // width, min(-(-box.right // width), self.columns))
        ]


@dataclass(frozen=True, slots=True)
class DamagedPart:
    """A damaged stored part: where, in pixels of its level, and what the decoder says of it."""

    box: Box
    what: str


@dataclass(slots=True)
class LevelVerdicts:
    """One byte a part, and what is said of the damaged ones."""

    states: bytearray
    damages: dict[int, str] = field(default_factory=dict)


class StoredParts:
    """The stored parts of a slide, by level; levels whose parts cannot be found are None and not judged."""

    def __init__(
        self, levels: tuple[StoredLevel | None, ...], known: dict[int, LevelVerdicts] | None = None
    ) -> None:
        self._levels = levels
        self._known = {} if known is None else known

    def first_damaged(self, level: int, box: Box) -> DamagedPart | None:
        """The first damaged part that holds pixels of `box`, given in pixels of `level`; None when all are whole.

        Two threads that ask at the same time may both look at a part: they come to the same verdict.
        """
        stored = self._levels[level]
        if stored is None:
            return None
        verdicts = self._known.setdefault(level, LevelVerdicts(bytearray(stored.columns * stored.rows)))
        for index in stored.touched(box):
            if verdicts.states[index] == _UNKNOWN:
                what = stored.damage(index)
                if what is not None:
                    verdicts.damages[index] = what
                verdicts.states[index] = _WHOLE if what is None else _DAMAGED
            if verdicts.states[index] == _DAMAGED:
                return DamagedPart(stored.box(index), verdicts.damages[index])
        return None
