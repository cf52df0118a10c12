"""The stored tiles of TIFF slides whose damage OpenSlide does not report.

OpenSlide decodes the JPEG data of colour tiles, and of every format that is no TIFF, itself and fails on libjpeg's
first warning; OpenJPEG fails where JPEG 2000 data ends early, and libtiff where LZW and deflate do. JPEG tiles of
one channel (fluorescence), of four, or of one plane a channel it leaves to libtiff, which fills what is missing
with grey: those are followed here before they are read.

Not found, because nothing reports it: bytes of JPEG 2000 or uncompressed tiles that were overwritten in place, and
such JPEG tiles of Leica, Trestle and Ventana slides, whose pieces are not placed where the level's pixels are.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.slides import tiff
from slidecascade.slides.storedparts import OpenFile, StoredLevel, StoredParts, Verdicts, file_state, part_damage
from slidecascade.slides.tiff import ByteSource, Directory

_VENDORS = frozenset({"aperio", "generic-tiff", "philips"})
"""As OpenSlide names them: those whose levels are directories, pixel for pixel."""


class SlideParts:
    """The tiles to follow of the slide at a path, found when they are first asked for; `close` when done."""

    def __init__(self, path: Path, verdicts: Verdicts) -> None:
        self._path = path
        self._verdicts = verdicts
        self._lock = threading.Lock()
        self._file: OpenFile | None = None
        self._parts: StoredParts | None = None

    def find(self, vendor: str | None, level_sizes: Sequence[Size]) -> StoredParts:
        """The tiles of each level that OpenSlide describes; the same at every call."""
        with self._lock:
            if self._parts is None:
                self._parts = self._find(vendor, level_sizes)
            return self._parts

    def _find(self, vendor: str | None, level_sizes: Sequence[Size]) -> StoredParts:
        if vendor in _VENDORS:
            try:
                known = self._verdicts.of(file_state(self._path))
                self._file = OpenFile(self._path)
                return StoredParts(stored_levels(self._file, level_sizes), known)
            except OSError:  # gone since OpenSlide opened it
                pass
        return StoredParts((None,) * len(level_sizes))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def stored_levels(source: ByteSource, level_sizes: Sequence[Size]) -> tuple[StoredLevel | None, ...]:
    """The tiles to follow of each level; None where there are none."""
    try:
        tiled = [directory for directory in tiff.directories(source) if tiff.TILE_OFFSETS in directory.tags]
        return tuple(_stored_level(source, tiled, size) for size in level_sizes)
    except (UndecodableImageError, struct.error, OverflowError, ValueError):  # read otherwise than by OpenSlide
        return (None,) * len(level_sizes)


def _stored_level(source: ByteSource, tiled: list[Directory], size: Size) -> StoredLevel | None:
    fitting = [directory for directory in tiled if _covers(directory, size)]
    if not fitting:
        return None
    directory = min(fitting, key=lambda item: item.size.area)
    if directory.first(tiff.COMPRESSION, 1) != tiff.JPEG_COMPRESSION or _read_by_openslide(directory):
        return None
    planes = directory.first(tiff.SAMPLES, 1) if directory.first(tiff.PLANAR, 1) == 2 else 1
    stored = StoredLevel.of_size(directory.size, directory.part_size, partial(_damage, source, directory, planes))
    count = stored.columns * stored.rows * planes
    return stored if len(directory.part_offsets) == len(directory.part_bytes) == count else None


def _damage(source: ByteSource, directory: Directory, planes: int, index: int) -> str | None:
    """What is damaged in a tile, in any of its planes."""
    tiles = len(directory.part_offsets) // planes
    found = (part_damage(source, directory, plane * tiles + index) for plane in range(planes))
    return next((damage for damage in found if damage is not None), None)


def _read_by_openslide(directory: Directory) -> bool:
    """Whether OpenSlide decodes the tiles itself (its `openslide-decode-tiff.c`) and not libtiff for it."""
    interleaved = directory.first(tiff.PLANAR, 1) == 1 and directory.first(tiff.SAMPLES, 1) == 3
    return interleaved and directory.first(tiff.PHOTOMETRIC, 0) in (tiff.RGB, tiff.YCBCR)


def _covers(directory: Directory, size: Size) -> bool:
    """Whether the directory's image is `size` and perhaps, as Philips writes it, filled up to whole tiles."""
    tile, stored = directory.part_size, directory.size
    return 0 <= stored.width - size.width < tile.width and 0 <= stored.height - size.height < tile.height
