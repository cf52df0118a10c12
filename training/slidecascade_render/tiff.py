"""A streaming writer for tiled, pyramidal BigTIFF files of JPEG-encoded tiles.

Follows TIFF 6.0, its technical note 2 on JPEG and the BigTIFF layout of libtiff. Only the tile offsets and lengths
are held in memory. tifffile needs a codec package even to write encoded tiles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

_SHORT, _LONG, _RATIONAL, _LONG8 = 3, 4, 5, 16
_FORMATS: Final = {_SHORT: "H", _LONG: "I", _RATIONAL: "II", _LONG8: "Q"}
_JPEG, _YCBCR, _CENTIMETRE = 7, 6, 3


@dataclass(slots=True)
class TiledTiff:
    """Open for writing; `add_level` once for each level, from the largest to the smallest."""

    path: Path
    _file: BinaryIO = field(init=False)
    _link: int = field(init=False, default=8)  # position of the next directory's offset

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        self._file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add_level(
        self, tiles: Iterable[bytes], size_px: tuple[int, int], *, tile_px: int, mpp: float, reduced: bool
    ) -> None:
        """Append a level of (width, height) pixels from its JPEG tiles (YCbCr 4:4:4) in reading order.

        Raises:
            ValueError: the number of tiles does not cover the level.
        """
        offsets, lengths = [], []
        for tile in tiles:
            offsets.append(self._file.tell())
            lengths.append(len(tile))
            self._file.write(tile)
        expected = -(-size_px[0] // tile_px) * -(-size_px[1] // tile_px)
        if len(offsets) != expected:
            raise ValueError(f"a level of {size_px} px has {expected} tiles, got {len(offsets)}")
        per_cm = Fraction(1e4 / mpp).limit_denominator(10_000)
        resolution = [per_cm.numerator, per_cm.denominator]
        self._write_directory(
            [
                (254, _LONG, [int(reduced)]),
                (256, _LONG, [size_px[0]]),
                (257, _LONG, [size_px[1]]),
                (258, _SHORT, [8, 8, 8]),
                (259, _SHORT, [_JPEG]),
                (262, _SHORT, [_YCBCR]),
                (277, _SHORT, [3]),
                (282, _RATIONAL, resolution),
                (283, _RATIONAL, resolution),
                (284, _SHORT, [1]),
                (296, _SHORT, [_CENTIMETRE]),
                (322, _LONG, [tile_px]),
                (323, _LONG, [tile_px]),
                (324, _LONG8, offsets),
                (325, _LONG8, lengths),
                (530, _SHORT, [1, 1]),
                (532, _RATIONAL, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),
            ]
        )

    def _write_directory(self, tags: Sequence[tuple[int, int, Sequence[int]]]) -> None:
        """Write the values that do not fit into eight bytes, then the directory, then the link to it."""
        entries = []
        for tag, kind, values in tags:
            packed = struct.pack(f"<{len(values)}{_FORMATS[kind][0]}", *values)
            if len(packed) > 8:
                self._align()
                place = struct.pack("<Q", self._file.tell())
                self._file.write(packed)
                packed = place
            count = len(values) // len(_FORMATS[kind])
            entries.append(struct.pack("<HHQ8s", tag, kind, count, packed))
        self._align()
        start = self._file.tell()
        self._file.write(struct.pack("<Q", len(entries)) + b"".join(entries))
        next_link = self._file.tell()
        self._file.write(struct.pack("<Q", 0))
        self._file.seek(self._link)
        self._file.write(struct.pack("<Q", start))
        self._file.seek(0, 2)
        self._link = next_link

    def _align(self) -> None:
        """Directories and values start at even offsets, here at multiples of eight."""
        self._file.write(b"\0" * (-self._file.tell() % 8))
