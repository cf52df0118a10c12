"""Whole-slide images. The only module that knows OpenSlide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray

from slidecascade.cores import usable_cores
from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides import omexml
from slidecascade.slides.alpha import on_white
from slidecascade.slides.fileslide import FileSlide, Marks
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.knownfiles import KnownFiles
from slidecascade.slides.slideinfo import SlideInfo, mpp_of, undistorted
from slidecascade.slides.source import Rgb
from slidecascade.slides.tiffslide import SlideFile, TiffSlide

_DESCRIPTION = "tiff.ImageDescription"
_DICOM_SERIES = "dicom.SeriesInstanceUID"
_DICOM_INSTANCE = "dicom.SOPInstanceUID"
_ONE_FILE = frozenset({"aperio", "generic-tiff", "leica", "philips", "ventana"})
"""As OpenSlide names them: formats whose slides are one file, whatever it is called."""

_BLOCK_PX = 256
"""Side of the blocks a level is read in when its downsample is not a whole number, in its pixels."""

MAX_TILE_PX = 2**26
"""Most pixels of a stored tile, 256 MB: OpenSlide ends the process when there is no memory for one."""

_PIECE_PX = 2**20
"""Pixels that OpenSlide reads at a time, where a row has fewer: each is in memory several times meanwhile, and
memory of this size is used again instead of being cleared by the kernel for every read."""

_PIECE_ROWS = 256
"""Pieces end on multiples of it, as stored tiles do."""


class TileCache:
    """Decoded tiles, shared by the slides that are given it; bounded in bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self._cache = openslide.OpenSlideCache(capacity_bytes)

    def attach(self, slide: openslide.OpenSlide) -> None:
        slide.set_cache(self._cache)


def _piece_rows(y: int, width: int) -> int:
    """Rows of a piece that begins at row `y` of a level."""
    rows = max(1, _PIECE_PX // width)
    return (y + rows) // _PIECE_ROWS * _PIECE_ROWS - y if rows >= _PIECE_ROWS else rows


def can_open(path: Path) -> bool:
    """Whether OpenSlide recognises the format of the file; it may be damaged all the same."""
    return openslide.OpenSlide.detect_format(path) is not None


def is_one_file(path: Path, suffix: str) -> bool:
    """Whether the slide in the file at `path`, whose name ends with `suffix`, needs no other file and no name."""
    vendor = openslide.OpenSlide.detect_format(path)
    return vendor in _ONE_FILE or (vendor == "hamamatsu" and suffix.lower() == ".ndpi")


class Slide(FileSlide):
    """A slide that is read in this process.

    After one failed read OpenSlide fails every later one: `failed` says so, and the handle is to be dropped. Tiles
    whose damage OpenSlide would not report (see `tiffslide`) fail the reads that touch them, and no others.
    """

    def __init__(self, handle: openslide.OpenSlide, path: Path, file: SlideFile) -> None:
        self._handle = handle
        self._file = file
        self._failed = False
        properties = handle.properties
        _require_small_tiles(properties, handle.level_count)
        sides_um = _sides_um(properties)
        self._levels = undistorted(handle.level_dimensions)
        super().__init__(
            path,
            SlideInfo(
                size_l0=Size(*handle.dimensions),
                mpp=mpp_of(sides_um),
                sides_um=sides_um,
                objective_power=_positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
                vendor=properties.get(openslide.PROPERTY_NAME_VENDOR),
                level_sizes=tuple(Size(*handle.level_dimensions[level]) for level in self._levels),
                level_downsamples=tuple(float(handle.level_downsamples[level]) for level in self._levels),
                bounds_l0=_bounds(properties, Size(*handle.dimensions)),
            ),
            Marks(
                quickhash=properties.get(openslide.PROPERTY_NAME_QUICKHASH1),
                series=properties.get(_DICOM_SERIES),
                instance=properties.get(_DICOM_INSTANCE),
            ),
        )

    @classmethod
    def open(cls, path: Path, *, cache: TileCache | None = None, known: KnownFiles | None = None) -> Self:
        """Open the slide at `path`; `known` keeps what is found out about its file.

        Raises:
            UnreadableSlideError: not a slide, or damaged.
        """
        try:
            handle = openslide.OpenSlide(path)
            if cache is not None:
                cache.attach(handle)
            return cls(handle, path, SlideFile(path, known or KnownFiles()))
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise UnreadableSlideError(
                "The slide cannot be opened: its format is not supported or the file is damaged; "
                "check it in a viewer and copy it again."
            ) from error

    @classmethod
    def open_held(
        cls, file: HeldFile, path: Path, *, cache: TileCache | None = None, known: KnownFiles | None = None
    ) -> Self | None:
        """The slide at `path`, of which `file` is held, if that is all it needs; None: open it by its name.

        Raises:
            UnreadableSlideError: damaged.
        """
        return cls.open(file.path, cache=cache, known=known) if is_one_file(file.path, path.suffix) else None

    @property
    def failed(self) -> bool:
        return self._failed

    def read_level(self, level: int, box: Box) -> Rgb:
        """See `FileSlide`."""
        if (deep := self._tiff.deep) is not None:
            return deep.read(level, box)
        self._refuse_damaged(level, box)
        downsample = self.level_downsamples[level]
        if downsample == round(downsample):
            if (pixels := self._tiff.jpegs.read(level, box)) is not None:
                return pixels
            return self._read(level, box.x * round(downsample), box.y * round(downsample), box.size)
        return self._read_by_blocks(level, box)

    def read_eighth(self, threads: int | None = None) -> Rgb | None:
        """See `FileSlide`; by `threads`, by default one for each core."""
        return self._file.eighth(self._tiff, self.size_l0, partial(self.read_level, 0), threads or usable_cores())

    @property
    def _tiff(self) -> TiffSlide:
        return self._file.look(self._info.vendor, self._info.level_sizes)

    def _refuse_damaged(self, level: int, box: Box) -> None:
        damaged = self._tiff.parts.first_damaged(level, box)
        if damaged is None:
            return
        downsample = self.level_downsamples[level]
        x, y, width, height = (round(length * downsample) for length in damaged.box.as_tuple())
        raise UnreadableSlideError(
            f"The slide's file is damaged at level-0 pixel ({x}, {y}): the data of a stored tile of "
            f"{width} x {height} pixels cannot be followed ({damaged.what}); copy the file again, choose another "
            "region, or send allow_partial."
        )

    def _read_by_blocks(self, level: int, box: Box) -> Rgb:
        """OpenSlide is addressed in whole level-0 pixels, so with a downsample of, say, 4.0003 most of a
        level's pixels cannot be addressed: it then interpolates, differently for each starting point.
        Reading from the corners of fixed blocks makes a pixel's value independent of the box."""
        downsample = self.level_downsamples[level]
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        for top in range(box.y // _BLOCK_PX * _BLOCK_PX, box.bottom, _BLOCK_PX):
            for left in range(box.x // _BLOCK_PX * _BLOCK_PX, box.right, _BLOCK_PX):
                part = Box(left, top, _BLOCK_PX, _BLOCK_PX).clipped(box)
                size = Size(part.right - left, part.bottom - top)
                block = self._read(level, round(left * downsample), round(top * downsample), size)
                target = part.shifted(-box.x, -box.y)
                pixels[target.y : target.bottom, target.x : target.right] = block[part.y - top :, part.x - left :]
        return pixels

    def unstored_share(self, level: int, box: Box) -> float:
        """See `FileSlide`."""
        downsample, unstored = self.level_downsamples[level], 0
        rows = max(1, _PIECE_PX // box.width)
        for top in range(box.y, box.bottom, rows):
            size = Size(box.width, min(rows, box.bottom - top))
            rgba = self._read_rgba(level, round(box.x * downsample), round(top * downsample), size)
            unstored += size.area - int(np.count_nonzero(rgba[..., 3]))
        return unstored / box.area

    def _read(self, level: int, x_l0: int, y_l0: int, size: Size) -> Rgb:
        if size.area <= _PIECE_PX:
            return on_white(self._read_rgba(level, x_l0, y_l0, size))
        downsample = round(self.level_downsamples[level])  # larger boxes are read of levels where it is whole only
        pixels = np.empty((size.height, size.width, 3), np.uint8)
        top = 0
        while top < size.height:
            rows = min(_piece_rows(y_l0 // downsample + top, size.width), size.height - top)
            part = self._read_rgba(level, x_l0, y_l0 + top * downsample, Size(size.width, rows))
            pixels[top : top + rows] = on_white(part)
            top += rows
        return pixels

    def _read_rgba(self, level: int, x_l0: int, y_l0: int, size: Size) -> NDArray[np.uint8]:
        try:
            image = self._handle.read_region((x_l0, y_l0), self._levels[level], (size.width, size.height))
        except openslide.OpenSlideError as error:
            self._failed = True
            raise UnreadableSlideError(
                "The slide opens but cannot be read here: its file is damaged; copy it again or choose "
                "another region."
            ) from error
        return np.asarray(image)

    def close(self) -> None:
        """See `FileSlide`."""
        self._handle.close()
        self._file.close()


def _require_small_tiles(properties: Mapping[str, str], levels: int) -> None:
    for level in range(levels):
        width, height = (
            int(properties.get(f"openslide.level[{level}].tile-{side}", "0")) for side in ("width", "height")
        )
        if width * height > MAX_TILE_PX:
            raise UnreadableSlideError(
                f"The slide is stored in tiles of {width} x {height} pixels, at most {MAX_TILE_PX} pixels are "
                "read: save it with smaller tiles."
            )


def _positive(text: str | None) -> float | None:
    """The positive finite number in `text`, or None."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _sides_um(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Width and height of a level-0 pixel in micrometres: as OME-XML states them, else as OpenSlide finds them."""
    if (stated := omexml.sides_um(properties.get(_DESCRIPTION))) is not None:
        return stated
    x = _positive(properties.get(openslide.PROPERTY_NAME_MPP_X))
    y = _positive(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    return None if x is None or y is None else (x, y)


def _bounds(properties: Mapping[str, str], size_l0: Size) -> Box | None:
    """The part of level 0 that the scanner filled; None where it is not stated, or is not inside level 0."""
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    try:
        box = Box(*(int(properties[name]) for name in names))
    except (KeyError, ValueError):
        return None
    inside = Box(0, 0, size_l0.width, size_l0.height).encloses(box)
    return box if inside and box.width > 0 and box.height > 0 else None
