"""What OpenSlide does not say of TIFF slides: damaged JPEG tiles, and the lower eight of 16 bits.

OpenSlide decodes the JPEG data of colour tiles, and of every format that is no TIFF, itself and fails on the first
warning of libjpeg; libtiff fails where LZW and deflate end early. But JPEG tiles of one channel (fluorescence), of
four, or of one plane a channel OpenSlide leaves to libtiff, which fills what is missing with grey, and OpenJPEG
decodes a JPEG 2000 tile that was cut in place: those are followed here before they are read.

Not found, because nothing reports it: bytes of JPEG 2000 or uncompressed tiles that were overwritten with others,
and such tiles of Leica, Trestle and Ventana slides, whose pieces are not placed where the level's pixels are.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from slidecascade.errors import UndecodableImageError, UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides import tiff
from slidecascade.slides.deeptiff import DeepTiff
from slidecascade.slides.eighths import read_eighth
from slidecascade.slides.heldfile import file_state
from slidecascade.slides.jpegtiles import JpegLevel, JpegTiles
from slidecascade.slides.knownfiles import KnownFiles
from slidecascade.slides.source import Rgb
from slidecascade.slides.storedparts import OpenFile, StoredLevel, StoredParts, part_damage
from slidecascade.slides.tiff import ByteSource, Directory

_INTEGERS = (1, 4)
"""Values of the tag SampleFormat: unsigned, or not said."""

_VENDORS = frozenset({"aperio", "generic-tiff", "philips"})
"""As OpenSlide names them: those whose levels are directories, pixel for pixel."""


@dataclass(frozen=True, slots=True)
class TiffSlide:
    """What is read of a slide's file besides OpenSlide: tiles to follow, and tiles that are read in its place.

    `first` is the directory of level 0, where it was found.
    """

    parts: StoredParts
    deep: DeepTiff | None = None
    jpegs: JpegTiles = field(default_factory=JpegTiles)
    first: Directory | None = None


class SlideFile:
    """The file of the slide at a path, opened on first access; `close` it after use."""

    def __init__(self, path: Path, known: KnownFiles) -> None:
        self._path = path
        self._known = known
        self._lock = threading.Lock()
        self._file: OpenFile | None = None
        self._slide: TiffSlide | None = None

    def look(self, vendor: str | None, level_sizes: Sequence[Size]) -> TiffSlide:
        """The slide of which OpenSlide says this; the same at every call.

        Raises:
            UnreadableSlideError: 16-bit samples that are stored in a way that is not read.
        """
        with self._lock:
            if self._slide is None:
                self._slide = self._look(vendor, level_sizes)
            return self._slide

    def eighth(self, slide: TiffSlide, size: Size, read: Callable[[Box], Rgb], threads: int) -> Rgb | None:
        """Level 0 of `size` at an eighth of its size, see `read_eighth`; None where that cannot be had."""
        if slide.first is None or slide.deep is not None or self._file is None:
            return None
        return read_eighth(self._file, slide.first, size, read, threads)

    def _look(self, vendor: str | None, level_sizes: Sequence[Size]) -> TiffSlide:
        nothing = TiffSlide(StoredParts((None,) * len(level_sizes)))
        if vendor not in _VENDORS:
            return nothing
        try:
            known = self._known.of(file_state(self._path))
            self._file = self._file or OpenFile(self._path)
        except OSError:  # gone since OpenSlide opened it
            return nothing
        levels = _level_directories(self._file, level_sizes)
        found = [item for item in levels if item is not None]
        for directory in found:
            _require_known(directory)
        if len(found) == len(levels) and found[0].first(tiff.BITS, 1) == 16:
            return replace(nothing, deep=DeepTiff(self._file, found, known.narrowing))
        parts = tuple(None if item is None else _followed_level(self._file, item) for item in levels)
        jpegs = tuple(None if item is None or not _decodes_itself(item) else JpegLevel.of(item) for item in levels)
        return TiffSlide(StoredParts(parts, known.verdicts), jpegs=JpegTiles(self._file, jpegs), first=levels[0])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _require_known(directory: Directory) -> None:
    """What libtiff, through OpenSlide, reads otherwise than it is meant, tile by tile; and in no way at all.

    Raises:
        UnreadableSlideError: saying how to save the slide.
    """
    if 2 <= directory.first(tiff.ORIENTATION, 1) <= 8 and not _decodes_itself(directory):
        raise UnreadableSlideError(
            "The slide's TIFF tag Orientation says that it is turned or mirrored, which is not applied to slides: "
            "save it upright."
        )
    if directory.first(tiff.SAMPLE_FORMAT, 1) not in _INTEGERS or directory.first(tiff.BITS, 1) > 16:
        raise UnreadableSlideError(
            "The slide's samples are not unsigned integers of at most 16 bits: save it with 8 or 16 bits."
        )


def _level_directories(source: ByteSource, level_sizes: Sequence[Size]) -> list[Directory | None]:
    """The tiled directory of each level's size; None where there is none."""
    try:
        tiled = [directory for directory in tiff.directories(source) if tiff.TILE_OFFSETS in directory.tags]
        fitting = [[directory for directory in tiled if _covers(directory, size)] for size in level_sizes]
    except (UndecodableImageError, struct.error, OverflowError, ValueError):  # read otherwise than by OpenSlide
        return [None] * len(level_sizes)
    return [min(items, key=lambda item: item.size.area, default=None) for items in fitting]


def _followed_level(source: ByteSource, directory: Directory) -> StoredLevel | None:
    """The tiles of a level when they are to be followed; None otherwise."""
    if not _is_followed(directory):
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


def _is_followed(directory: Directory) -> bool:
    """JPEG 2000, and JPEG that OpenSlide leaves to libtiff (its `openslide-decode-tiff.c` says when)."""
    compression = directory.first(tiff.COMPRESSION, 1)
    if compression != tiff.JPEG_COMPRESSION:
        return compression in tiff.JPEG_2000_COMPRESSIONS
    return not _decodes_itself(directory)


def _decodes_itself(directory: Directory) -> bool:
    """Whether OpenSlide decodes the tiles without libtiff, and so as they are stored."""
    compression = directory.first(tiff.COMPRESSION, 1)
    if compression != tiff.JPEG_COMPRESSION:
        return compression in tiff.JPEG_2000_COMPRESSIONS
    interleaved = directory.first(tiff.PLANAR, 1) == 1 and directory.first(tiff.SAMPLES, 1) == 3
    return interleaved and directory.first(tiff.PHOTOMETRIC, 0) in (tiff.RGB, tiff.YCBCR)


def _covers(directory: Directory, size: Size) -> bool:
    """Whether the directory's image is `size` and perhaps, as Philips writes it, filled up to whole tiles."""
    tile, stored = directory.part_size, directory.size
    return 0 <= stored.width - size.width < tile.width and 0 <= stored.height - size.height < tile.height
