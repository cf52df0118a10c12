"""TIFF files whose channels are no colours: pages, planes or samples of one size, each a channel.

Read are one to eight channels of unsigned 8 or 16 bits (12-bit counts are stored in 16): a page each (as ImageJ,
tifffile and OME-TIFF write them), a plane each, or as the samples of a pixel. Names are those of OME-XML or, where the
file has none, ``channel-0`` and so on. A stack in time or in depth is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Box, Size
from slidecascade.slides import omexml, tiff
from slidecascade.slides.channels import MAX_CHANNELS, Samples
from slidecascade.slides.storedparts import part_damage
from slidecascade.slides.tiff import Bytes, ByteSource, Directory

_REDUCED_IMAGE: Final = 1
_IMAGEJ_AXIS = re.compile(r"^(slices|frames)=(\d+)\s*$", re.MULTILINE)
_HORIZONTAL: Final = 2
"""Value of PREDICTOR: samples are stored as differences."""

_COPIED_TAGS = (tiff.BITS, tiff.COMPRESSION, tiff.SAMPLE_FORMAT)


@dataclass(frozen=True, slots=True)
class TiffStack:
    """The channels of a TIFF file.

    Attributes:
        levels: of each level the pages that hold its channels: one a channel, or one for all.
        names: of the channels.
        sides_um: width and height of a pixel, where OME-XML states them.
    """

    source: ByteSource
    levels: tuple[tuple[Directory, ...], ...]
    names: tuple[str, ...]
    sides_um: tuple[float, float] | None

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return tuple(pages[0].size for pages in self.levels)

    @property
    def bits(self) -> int:
        """Of a sample."""
        return 8 * _dtype(self.levels[0][0]).itemsize

    def read(self, level: int, box: Box, indices: Sequence[int]) -> Samples:
        """``(H, W, C)`` counts of the channels at `indices` in `box`, given in pixels of `level` and inside it.

        Raises:
            UndecodableImageError: a strip or tile is damaged or stored in a way that is not read.
        """
        pages = self.levels[level]
        if len(pages) == 1:
            return self._page(pages[0], box)[..., list(indices)]
        return np.concatenate([self._page(pages[index], box) for index in indices], axis=2)

    def _page(self, page: Directory, box: Box) -> Samples:
        samples, is_planar = _samples(page), page.first(tiff.PLANAR, 1) == tiff.PLANES_APART
        found: Samples = np.zeros((box.height, box.width, samples), _dtype(page))
        part_size = page.part_size
        across, down = -(-page.size.width // part_size.width), -(-page.size.height // part_size.height)
        for plane in range(samples if is_planar else 1):
            channels = slice(plane, plane + 1) if is_planar else slice(None)
            for row in range(box.y // part_size.height, -(-box.bottom // part_size.height)):
                for column in range(box.x // part_size.width, -(-box.right // part_size.width)):
                    index = plane * across * down + row * across + column
                    place = Box(
                        column * part_size.width, row * part_size.height, part_size.width, part_size.height
                    )
                    self._put(found[..., channels], page, index, place, box)
        return found

    def _put(self, target: Samples, page: Directory, index: int, place: Box, box: Box) -> None:
        stored = self._part(page, index, place)
        wanted = place.clipped(box)
        inside = wanted.shifted(-place.x, -place.y)
        there = wanted.shifted(-box.x, -box.y)
        target[there.y : there.bottom, there.x : there.right] = stored[
            inside.y : inside.bottom, inside.x : inside.right
        ]

    def _part(self, page: Directory, index: int, place: Box) -> Samples:
        """A strip or tile as ``(h, w, samples)``; a strip at the lower edge may be shorter."""
        if (damage := part_damage(self.source, page, index)) is not None:
            raise UndecodableImageError(f"The TIFF stack is damaged ({damage}): send it or copy it again.")
        samples = 1 if page.first(tiff.PLANAR, 1) == tiff.PLANES_APART else _samples(page)
        is_tiled = tiff.TILE_OFFSETS in page.tags
        height = place.height if is_tiled else min(place.height, page.size.height - place.y)
        dtype, data = _dtype(page), page.part(self.source, index)
        if page.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) == tiff.UNCOMPRESSED:
            if len(data) < height * place.width * samples * dtype.itemsize:
                raise UndecodableImageError("The TIFF stack ends before its last pixel: send it or copy it again.")
            stored = np.frombuffer(data, dtype.newbyteorder(page.order), height * place.width * samples)
        else:
            stored = _decoded(page, data, Size(place.width * samples, height))
        counts = stored.reshape(height, place.width, samples).astype(dtype, copy=False)
        if page.first(tiff.PREDICTOR, 1) == _HORIZONTAL:
            counts = np.cumsum(counts, axis=1, dtype=dtype)
        return counts


def _decoded(page: Directory, data: bytes, size: Size) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A strip or tile, decoded as a grey image whose pixels are the samples."""
    tags = {tag: page.all(tag)[:1] for tag in _COPIED_TAGS if tag in page.tags}
    tags |= {tiff.PHOTOMETRIC: np.ones(1, np.uint64), tiff.SAMPLES: np.ones(1, np.uint64)}
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        strip = tiff.one_strip(data, size, tags, page.order)
        found = cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None or found.dtype != _dtype(page) or found.shape != (size.height, size.width):
        raise UndecodableImageError(
            "The TIFF stack cannot be decoded: it is damaged or compressed in a way that is not read; save it with "
            "LZW or deflate compression."
        )
    return np.asarray(found)


def stack_in(data: bytes) -> TiffStack | None:
    """The stack in the bytes of an image file; None where it is another image, damaged, or no TIFF.

    Raises:
        UndecodableImageError: a stack that is not read; the message says why.
    """
    if not data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return None
    source = Bytes(data)
    try:
        if not has_stack(source):
            return None
        return read_stack(source)
    except (struct.error, OverflowError):
        return None  # whoever reads the header says what is damaged


def has_stack(source: ByteSource) -> bool:
    """Whether a TIFF file may hold a stack; its directories are read, and no more.

    Raises:
        UndecodableImageError, struct.error, OverflowError: the file is damaged.
    """
    first = tiff.first_directory(source)
    if _samples(first) > 1 and not _is_colour(first):
        return True
    stated = omexml.channels(first.description)
    if stated is not None and not _is_colour(first) and any(stated.names):
        return True
    if not first.next_offset:
        return False
    following = tiff.read_directory(source, first.next_offset)
    return following.size == first.size and _samples(first) == 1


def read_stack(source: ByteSource) -> TiffStack | None:
    """The stack in a TIFF file; None for an image of grey or of colours, which is no stack.

    Raises:
        UndecodableImageError: a stack that is not read; the message says why.
        struct.error, OverflowError: the file is damaged.
    """
    first = tiff.first_directory(source)
    description = first.description
    stated = omexml.channels(description)
    same, others = [], 0
    for page in tiff.directories(source):
        is_reduced = page.first(tiff.NEW_SUBFILE_TYPE, 0) & _REDUCED_IMAGE
        if is_reduced or page.size.area < first.size.area / 3:
            others += 1
            continue
        same.append(page)
    if len(same) == 1 and (_is_colour(first) or _samples(first) == 1) and (stated is None or stated.count == 1):
        if stated is None or _is_colour(first):
            return None
    _refuse_other_sizes(same, stated)
    _refuse_time(description, stated)
    count = len(same) if len(same) > 1 else _samples(first)
    if count > MAX_CHANNELS:
        raise UndecodableImageError(
            f"The TIFF stack has {count} channels, at most {MAX_CHANNELS} are read: save those that are needed."
        )
    for page in same:
        _check(page)
    names = stated.names if stated is not None and len(stated.names) == count else ()
    return TiffStack(
        source,
        tuple([tuple(same), *_smaller(source, same)]),
        tuple(name or f"channel-{index}" for index, name in enumerate(names or ("",) * count)),
        omexml.sides_um(description),
    )


def _is_colour(page: Directory) -> bool:
    """Whether samples are red, green and blue, grey and alpha, or the like."""
    samples = _samples(page)
    if page.first(tiff.PHOTOMETRIC, 1) not in (0, 1):
        return samples in (1, 3, 4) or page.first(tiff.PHOTOMETRIC, 1) != tiff.RGB
    return samples == 2 and page.first(tiff.EXTRA_SAMPLES, 0) in (1, 2)


def _refuse_other_sizes(pages: list[Directory], stated: omexml.Channels | None) -> None:
    sizes = {page.size for page in pages}
    if len(sizes) > 1 or len({(_samples(page), page.first(tiff.BITS, 1)) for page in pages}) > 1:
        raise UndecodableImageError(
            "The pages of the TIFF file differ in size or type, so they are not the channels of one image: send one "
            "of them."
        )
    if len(pages) > 1 and _samples(pages[0]) > 1:
        raise UndecodableImageError("The TIFF file is a stack of colour pages of one size: send one page.")
    if stated is not None and len(pages) > 1 and stated.pages != len(pages):
        raise UndecodableImageError(
            f"The OME-XML states {stated.pages} pages, the TIFF file has {len(pages)}: save it again in one file."
        )


def _refuse_time(description: str | None, stated: omexml.Channels | None) -> None:
    """A page may be a point in time or a depth as well as a channel."""
    slices, frames = (1, 1) if stated is None else (stated.slices, stated.frames)
    if stated is None and description is not None and description.startswith("ImageJ="):
        axes = dict(_IMAGEJ_AXIS.findall(description))
        slices, frames = int(axes.get("slices", 1)), int(axes.get("frames", 1))
    if slices > 1 or frames > 1:
        raise UndecodableImageError(
            f"The TIFF stack has {slices} planes in depth and {frames} points in time: send one of them."
        )


def _check(page: Directory) -> None:
    bits = {int(value) for value in page.all(tiff.BITS)} or {1}
    if page.first(tiff.SAMPLE_FORMAT, 1) not in (1, 4) or bits not in ({8}, {16}):
        raise UndecodableImageError(
            "The TIFF stack's samples are not unsigned integers of 8 or 16 bits, so NaN and negative values would be "
            "possible: convert it to 16 bits."
        )
    if page.first(tiff.ORIENTATION, 1) != 1:
        raise UndecodableImageError("The TIFF stack is stored turned or mirrored: save it upright.")
    parts = page.part_count
    if (
        min(page.size.area, page.part_size.area) < 1
        or len(page.part_offsets) < parts
        or len(page.part_bytes) < parts
    ):
        raise UndecodableImageError("The TIFF stack does not say where its pixels are: save it again.")


def _smaller(source: ByteSource, pages: list[Directory]) -> list[tuple[Directory, ...]]:
    """The smaller levels that every page has below it, as OME-TIFF stores them."""
    offsets = [page.all(tiff.SUB_IFDS).tolist() for page in pages]
    levels = []
    for level in range(min(map(len, offsets))):
        found = tuple(tiff.read_directory(source, int(each[level])) for each in offsets)
        if len({page.size for page in found}) > 1:
            break
        for page in found:
            _check(page)
        levels.append(found)
    return levels


def _samples(page: Directory) -> int:
    return page.first(tiff.SAMPLES, 1)


def _dtype(page: Directory) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    return np.dtype(np.uint16) if page.first(tiff.BITS, 8) == 16 else np.dtype(np.uint8)
