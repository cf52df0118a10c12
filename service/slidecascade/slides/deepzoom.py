"""Pictures of a slide for viewers: tiles of a Deep Zoom pyramid and thumbnails, in the slide's coordinates.

The greatest level of the pyramid shows level 0 pixel by pixel, each one below halves the sides, rounded up, to one
pixel at last. Tiles have 256 px and do not overlap; those at the right and the bottom are smaller. Nothing is
cropped: a tile shows the same place whatever bounds the file states. Label and macro images are never read.

Source of the format: the Deep Zoom file format of Silverlight, as OpenSeadragon documents it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from slidecascade.geometry import Box, Size
from slidecascade.slides import jpeg
from slidecascade.slides.eighths import EIGHTH
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.glimpse import cut, glimpse_of
from slidecascade.slides.source import Pictured, Rgb

TILE_PX: Final = 256
QUALITY: Final = 85
_BLANK_GREY: Final = 216
MAX_THUMBNAIL_PX: Final = 1024

_MAX_SHRINK: Final = 4
"""A tile is made from the pixels of a stored level if that takes reading at most 4 x 4 times as many."""

_LOW_PX: Final = 4096
"""Longest side of the level from which all coarser ones are made where no stored level is near."""

_WHOLE_PX: Final = 2**20
"""A stored level of at most so many pixels is near to all coarser levels: it is read in no time."""

_KEPT_TILES_BYTES: Final = 64 * 2**20
_KEPT_PYRAMIDS: Final = 16


@dataclass(frozen=True, slots=True)
class Address:
    """A tile: its level, its column and its row."""

    level: int
    column: int
    row: int


def max_level(size_l0: Size) -> int:
    """The level that shows level 0 pixel by pixel."""
    return (max(size_l0.width, size_l0.height) - 1).bit_length()


def level_size(size_l0: Size, level: int) -> Size:
    """The pixels of a level, which is at most `max_level`."""
    downsample = 2 ** (max_level(size_l0) - level)
    return Size(-(-size_l0.width // downsample), -(-size_l0.height // downsample))


def tile_box(size_l0: Size, address: Address) -> Box | None:
    """The pixels of a tile in its level; None: the pyramid has no such tile."""
    if not 0 <= address.level <= max_level(size_l0) or address.column < 0 or address.row < 0:
        return None
    size = level_size(size_l0, address.level)
    left, top = address.column * TILE_PX, address.row * TILE_PX
    if left >= size.width or top >= size.height:
        return None
    return Box(left, top, min(TILE_PX, size.width - left), min(TILE_PX, size.height - top))


def blank(size_l0: Size, address: Address) -> bytes | None:
    """A grey tile as JPEG, in the place of one that cannot be read; None: the pyramid has no such tile."""
    box = tile_box(size_l0, address)
    if box is None:
        return None
    return jpeg.encode(np.full((box.height, box.width, 3), _BLANK_GREY, np.uint8), quality=QUALITY)


class DeepZoom:
    """Makes tiles and thumbnails and keeps the last ones; usable from many threads.

    A slide that stores one level only gets its coarse levels once: they are made together in one pass over its
    pixels and kept as JPEG, about 5 MB a slide.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[str, Address], bytes] = OrderedDict()
        self._tiles_bytes = 0
        self._pyramids: OrderedDict[str, _LowPyramid] = OrderedDict()

    def tile(self, slide: Pictured, address: Address) -> bytes | None:
        """A tile as JPEG; None: the pyramid has no such tile.

        Raises:
            UnreadableSlideError: the file is damaged there.
        """
        box = tile_box(slide.size_l0, address)
        if box is None:
            return None
        key = (slide.content_id, address)
        with self._lock:
            if (kept := self._tiles.get(key)) is not None:
                self._tiles.move_to_end(key)
                return kept
        if _is_low(slide, address.level):
            return self._pyramid(slide).tiles(slide)[address]
        data = jpeg.encode(_pixels(slide, address.level, box), quality=QUALITY)
        self._keep(key, data)
        return data

    def glimpse(self, slide: Pictured, address: Address) -> bytes | None:
        """A coarse stand-in for a tile whose level is not made yet; None: the tile can be had, or there is none.

        Raises:
            UnreadableSlideError: the file is damaged.
        """
        box = tile_box(slide.size_l0, address)
        if box is None or not _is_low(slide, address.level):
            return None
        whole = self._pyramid(slide).glimpse(slide)
        if whole is None:
            return None
        return jpeg.encode(cut(whole, box, level_size(slide.size_l0, address.level)), quality=QUALITY)

    def glimpse_thumbnail(self, slide: Pictured, max_px: int) -> bytes | None:
        """The same for `thumbnail`."""
        level = _thumbnail_level(slide.size_l0, max_px)
        whole = self._pyramid(slide).glimpse(slide) if _is_low(slide, level) else None
        if whole is None:
            return None
        target = _thumbnail_size(level_size(slide.size_l0, level), max_px)
        return jpeg.encode(cut(whole, Box(0, 0, target.width, target.height), target), quality=QUALITY)

    def make_levels(self, slide: Pictured) -> None:
        """Make the coarse levels of a slide that stores none, unless they are made.

        Raises:
            UnreadableSlideError: the file is damaged.
        """
        self._pyramid(slide).tiles(slide)

    def thumbnail(self, slide: Pictured, max_px: int) -> bytes:
        """The whole slide as JPEG, its longest side at most `max_px` and at most its own.

        Raises:
            UnreadableSlideError: the file is damaged.
        """
        level = _thumbnail_level(slide.size_l0, max_px)
        size = level_size(slide.size_l0, level)
        if _is_low(slide, level):
            whole = _assembled(self._pyramid(slide).tiles(slide), level, size)
        else:
            whole = _pixels(slide, level, Box(0, 0, size.width, size.height))
        return jpeg.encode(_resized(whole, _thumbnail_size(size, max_px)), quality=QUALITY)

    def _pyramid(self, slide: Pictured) -> _LowPyramid:
        with self._lock:
            pyramid = self._pyramids.setdefault(slide.content_id, _LowPyramid())
            self._pyramids.move_to_end(slide.content_id)
            while len(self._pyramids) > _KEPT_PYRAMIDS:
                self._pyramids.popitem(last=False)
            return pyramid

    def _keep(self, key: tuple[str, Address], data: bytes) -> None:
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = data
                self._tiles_bytes += len(data)
            while self._tiles_bytes > _KEPT_TILES_BYTES:
                _, dropped = self._tiles.popitem(last=False)
                self._tiles_bytes -= len(dropped)


class _LowPyramid:
    """The tiles of all coarse levels of a slide, made on first use; other threads wait for the one that does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: Mapping[Address, bytes] | None = None
        self._glimpse_lock = threading.Lock()
        self._glimpse: Rgb | None = None

    def glimpse(self, slide: Pictured) -> Rgb | None:
        """A coarse picture of the slide; None: the tiles are made."""
        if self._tiles is not None:
            return None
        with self._glimpse_lock:
            if self._glimpse is None:
                self._glimpse = glimpse_of(slide)
            return self._glimpse

    def tiles(self, slide: Pictured) -> Mapping[Address, bytes]:
        with self._lock:
            if self._tiles is None:
                self._tiles = _low_tiles(slide)
            return self._tiles


def _low_tiles(slide: Pictured) -> dict[Address, bytes]:
    """The tiles of the greatest low level and all below it."""
    level = max(level for level in range(_greatest_low_level(slide.size_l0) + 1) if _is_low(slide, level))
    whole = _whole_level(slide, level)
    tiles: dict[Address, bytes] = {}
    while True:
        for top in range(0, whole.shape[0], TILE_PX):
            for left in range(0, whole.shape[1], TILE_PX):
                part = np.ascontiguousarray(whole[top : top + TILE_PX, left : left + TILE_PX])
                tiles[Address(level, left // TILE_PX, top // TILE_PX)] = jpeg.encode(part, quality=QUALITY)
        if level == 0:
            return tiles
        level -= 1
        whole = _resized(whole, level_size(slide.size_l0, level))


def _whole_level(slide: Pictured, level: int) -> Rgb:
    """All pixels of a low level, those of level 0 at an eighth where the file has them so."""
    size = level_size(slide.size_l0, level)
    downsample = 2 ** (max_level(slide.size_l0) - level)
    if isinstance(slide, FileSlide) and downsample >= EIGHTH and _stored_level(slide, downsample)[0] == 0:
        eighth = slide.read_eighth()
        if eighth is not None:
            return _resized(eighth, size)
    whole = np.empty((size.height, size.width, 3), np.uint8)
    for top in range(0, size.height, TILE_PX):
        for left in range(0, size.width, TILE_PX):
            box = Box(left, top, min(TILE_PX, size.width - left), min(TILE_PX, size.height - top))
            whole[box.y : box.bottom, box.x : box.right] = _pixels(slide, level, box)
    return whole


def _thumbnail_level(size_l0: Size, max_px: int) -> int:
    """The coarsest level that has the pixels of a thumbnail."""
    level = max_level(size_l0)
    longest = max(size_l0.width, size_l0.height)
    while level > 0 and -(-longest // 2 ** (max_level(size_l0) - level + 1)) >= max_px:
        level -= 1
    return level


def _thumbnail_size(size: Size, max_px: int) -> Size:
    scale = min(1.0, max_px / max(size.width, size.height))
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def _greatest_low_level(size_l0: Size) -> int:
    level = max_level(size_l0)
    return min(level, _LOW_PX.bit_length() - 1)


def _is_low(slide: Pictured, level: int) -> bool:
    """Whether a level is made from the low pyramid: it is coarse, and far from each stored level."""
    downsample = 2 ** (max_level(slide.size_l0) - level)
    stored, size = _stored_level(slide, downsample)
    is_far = downsample > _MAX_SHRINK * slide.level_downsamples[stored] and size.area > _WHOLE_PX
    return is_far and level <= _greatest_low_level(slide.size_l0)


def _stored_level(slide: Pictured, downsample: int) -> tuple[int, Size]:
    """The coarsest stored level that has all pixels a downsample needs, and its size."""
    fine = [index for index, stored in enumerate(slide.level_downsamples) if stored <= downsample * 1.01]
    level = max(fine, key=lambda index: slide.level_downsamples[index], default=0)
    return level, slide.level_sizes[level]


def _pixels(slide: Pictured, level: int, box: Box) -> Rgb:
    """The pixels of `box`, given in pixels of a level of the pyramid, ``(H, W, 3)`` uint8."""
    downsample = 2 ** (max_level(slide.size_l0) - level)
    stored, size = _stored_level(slide, downsample)
    shrink = downsample / slide.level_downsamples[stored]
    # To whole pixels of the stored level: at most half of one away, and at least one of them.
    left = min(round(box.x * shrink), size.width - 1)
    top = min(round(box.y * shrink), size.height - 1)
    right = max(left + 1, min(round(box.right * shrink), size.width))
    bottom = max(top + 1, min(round(box.bottom * shrink), size.height))
    return _resized(slide.read_level(stored, Box(left, top, right - left, bottom - top)), box.size)


def _resized(pixels: Rgb, size: Size) -> Rgb:
    if pixels.shape[:2] == (size.height, size.width):
        return np.ascontiguousarray(pixels)
    resized: Rgb = cv2.resize(pixels, (size.width, size.height), interpolation=cv2.INTER_AREA)
    return resized


def _assembled(tiles: Mapping[Address, bytes], level: int, size: Size) -> Rgb:
    """A whole level from its tiles."""
    whole = np.empty((size.height, size.width, 3), np.uint8)
    for address, data in tiles.items():
        if address.level == level:
            part = jpeg.decode(data)
            top, left = address.row * TILE_PX, address.column * TILE_PX
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole
