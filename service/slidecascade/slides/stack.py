"""TIFF files whose channels are no colours: pages, planes or samples of one size, each a channel.

Read are one to eight channels of unsigned 8 or 16 bits (12-bit counts are stored in 16): a page each (as ImageJ,
tifffile and OME-TIFF write them), a plane each, or as the samples of a pixel. Names are those of OME-XML or, where
the file has none, ``channel-0`` and so on. A stack in time or in depth is refused.
"""

from __future__ import annotations

import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Box, Size
from slidecascade.slides import omexml, tiff
from slidecascade.slides.channels import MAX_CHANNELS, Samples
from slidecascade.slides.storedparts import part_damage
from slidecascade.slides.tiff import Bytes, ByteSource, Directory

CACHE_BYTES: Final = 2**26
"""Decoded strips and tiles that are kept for the next tile."""

_REDUCED_IMAGE: Final = 1
_IMAGEJ_AXIS = re.compile(r"^(slices|frames)=(\d+)\s*$", re.MULTILINE)
_HORIZONTAL: Final = 2
"""Value of PREDICTOR: samples are stored as differences."""

StripDecoder: TypeAlias = Callable[[bytes, Size, str], Samples]
"""Decodes a TIFF file of one strip of grey: ``(H, W)`` of a size and a type, ``uint8`` or ``uint16``."""

_UNDECODABLE: Final = (
    "The TIFF stack cannot be decoded: it is damaged or compressed in a way that is not read; save it with LZW or "
    "deflate compression."
)
_COPIED_TAGS = (tiff.BITS, tiff.COMPRESSION, tiff.SAMPLE_FORMAT)


def decode_strip(strip: bytes, size: Size, dtype: str) -> Samples:
    """See `StripDecoder`; in this thread.

    Raises:
        UndecodableImageError: it is damaged, or another image.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        found = cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None or found.dtype != dtype or found.shape != (size.height, size.width):
        raise UndecodableImageError(_UNDECODABLE)
    return np.asarray(found)


class DecodedParts:
    """The strips and tiles decoded last, at most `CACHE_BYTES` of them; safe to use from threads."""

    def __init__(self) -> None:
        self._parts: OrderedDict[tuple[int, int], Samples] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def part(self, page: Directory, index: int, decode: Callable[[], Samples]) -> Samples:
        """The part as it is kept, or else what `decode` returns."""
        key = (int(page.part_offsets[index]), index)
        with self._lock:
            if (kept := self._parts.get(key)) is not None:
                self._parts.move_to_end(key)
                return kept
        found = decode()
        with self._lock:
            if key not in self._parts:
                self._parts[key] = found
                self._bytes += found.nbytes
            while self._bytes > CACHE_BYTES and len(self._parts) > 1:
                self._bytes -= self._parts.popitem(last=False)[1].nbytes
        return found


@dataclass(frozen=True, slots=True)
class TiffStack:
    """The channels of a TIFF file.

    Attributes:
        levels: of each level the pages that hold its channels: one a channel, or one for all.
        names: of the channels.
        sides_um: width and height of a pixel, where OME-XML states them.
        decode_strip: decodes what is compressed.
    """

    source: ByteSource
    levels: tuple[tuple[Directory, ...], ...]
    names: tuple[str, ...]
    sides_um: tuple[float, float] | None
    decode_strip: StripDecoder = decode_strip
    decoded: DecodedParts = field(default_factory=DecodedParts, compare=False)

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return tuple(pages[0].size for pages in self.levels)

    @property
    def part_size(self) -> Size:
        """Of the strips or tiles of level 0."""
        return self.levels[0][0].part_size

    @property
    def working_bytes(self) -> int:
        """Most memory that decoded parts take while the stack is read."""
        page = self.levels[0][0]
        return CACHE_BYTES + 4 * self.part_size.area * _part_samples(page) * _dtype(page).itemsize

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
        found = np.zeros((box.height, box.width, samples), _dtype(page))
        part_size = page.part_size
        across, down = -(-page.size.width // part_size.width), -(-page.size.height // part_size.height)
        for plane in range(samples if is_planar else 1):
            target = found[..., plane : plane + 1] if is_planar else found
            for row in range(box.y // part_size.height, -(-box.bottom // part_size.height)):
                for column in range(box.x // part_size.width, -(-box.right // part_size.width)):
                    index = plane * across * down + row * across + column
                    corner = (column * part_size.width, row * part_size.height)
                    place = Box(*corner, part_size.width, part_size.height)
                    wanted = place.clipped(box)
                    there = wanted.shifted(-box.x, -box.y)
                    counts = self._part(page, index, wanted.shifted(-place.x, -place.y))
                    target[there.y : there.bottom, there.x : there.right] = counts
        return found

    def _part(self, page: Directory, index: int, inside: Box) -> Samples:
        """``(h, w, samples)`` of the box `inside` of a strip or tile."""
        width, samples, dtype = page.part_size.width, _part_samples(page), _dtype(page)
        row_bytes = width * samples * dtype.itemsize
        if page.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) == tiff.UNCOMPRESSED:
            # Only the rows that are wanted: many programs store a page as one strip.
            start = int(page.part_offsets[index]) + inside.y * row_bytes
            data = self.source.read(start, inside.height * row_bytes)
            if len(data) < inside.height * row_bytes:
                raise UndecodableImageError("The TIFF stack ends before its last pixel: send it or copy it again.")
            stored: NDArray[Any] = np.frombuffer(data, page.order + dtype.str[1:]).astype(dtype, copy=False)
            rows = _undone(page, stored.reshape(inside.height, width, samples))
        else:
            rows = self.decoded.part(page, index, partial(self._decode, page, index))[inside.y : inside.bottom]
        counts: Samples = rows[:, inside.x : inside.right]
        return counts

    def _decode(self, page: Directory, index: int) -> Samples:
        """A strip or tile as ``(h, w, samples)``; a strip at the lower edge may be shorter."""
        if (damage := part_damage(self.source, page, index)) is not None:
            raise UndecodableImageError(f"The TIFF stack is damaged ({damage}): send it or copy it again.")
        width, height, samples = page.part_size.width, page.part_size.height, _part_samples(page)
        if tiff.TILE_OFFSETS not in page.tags:
            height = min(height, page.size.height - index % (-(-page.size.height // height)) * height)
        size = Size(width * samples, height)
        strip = _strip(page, page.part(self.source, index), size)
        stored = self.decode_strip(strip, size, _dtype(page).name)
        return _undone(page, stored.reshape(height, width, samples))


def _part_samples(page: Directory) -> int:
    return 1 if page.first(tiff.PLANAR, 1) == tiff.PLANES_APART else _samples(page)


def _undone(page: Directory, counts: Samples) -> Samples:
    """Samples that are stored as differences along rows as they were before."""
    if page.first(tiff.PREDICTOR, 1) != _HORIZONTAL:
        return counts
    return np.asarray(np.cumsum(counts, axis=1, dtype=counts.dtype))


def _strip(page: Directory, data: bytes, size: Size) -> bytes:
    """A strip or tile as a file of its own: a grey image whose pixels are the samples."""
    tags = {tag: page.all(tag)[:1] for tag in _COPIED_TAGS if tag in page.tags}
    tags |= {tiff.PHOTOMETRIC: np.ones(1, np.uint64), tiff.SAMPLES: np.ones(1, np.uint64)}
    return tiff.one_strip(data, size, tags, page.order)


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
    return _samples(first) == 1 and (following.size == first.size or _is_other_image(first, following))


def read_stack(source: ByteSource) -> TiffStack:
    """The stack in a TIFF file of which `has_stack` is true.

    Raises:
        UndecodableImageError: a stack that is not read; the message says why.
        struct.error, OverflowError: the file is damaged.
    """
    first = tiff.first_directory(source)
    description = first.description
    stated = omexml.channels(description)
    same = [page for page in tiff.directories(source) if not page.first(tiff.NEW_SUBFILE_TYPE, 0) & _REDUCED_IMAGE]
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
        (tuple(same), *_smaller(source, same)),
        tuple(name or f"channel-{index}" for index, name in enumerate(names or ("",) * count)),
        omexml.sides_um(description),
    )


def _is_colour(page: Directory) -> bool:
    """Whether samples are red, green and blue, perhaps with others after them, a palette, or grey and alpha."""
    if page.first(tiff.PHOTOMETRIC, 1) not in (0, 1):
        return True
    return _samples(page) == 2 and page.first(tiff.EXTRA_SAMPLES, 0) in (1, 2)


def _is_other_image(first: Directory, second: Directory) -> bool:
    """Whether `second` is neither a smaller copy of `first`, by its tag or its proportions, nor in colour."""
    if _is_colour(first) or _is_colour(second) or _samples(second) > 1:
        return False
    if second.first(tiff.NEW_SUBFILE_TYPE, 0) or second.first(tiff.BITS, 1) != first.first(tiff.BITS, 1):
        return False
    # A copy's sides are rounded to whole pixels.
    difference = abs(first.size.width * second.size.height - first.size.height * second.size.width)
    return difference > max(first.size.width, first.size.height)


def _refuse_other_sizes(pages: list[Directory], stated: omexml.Channels | None) -> None:
    sizes = {page.size for page in pages}
    if len(sizes) > 1 or len({(_samples(page), page.first(tiff.BITS, 1)) for page in pages}) > 1:
        raise UndecodableImageError(
            "The pages of the TIFF file differ in size or type, so they are not the channels of one image: send "
            "one of them."
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
    is_unsigned = page.first(tiff.SAMPLE_FORMAT, 1) in (1, 4)
    if is_unsigned and bits not in ({8}, {16}):
        raise UndecodableImageError(
            f"The TIFF stack's samples have {' and '.join(map(str, sorted(bits)))} bits, and 8 or 16 bits are "
            "read: convert it to 16 bits."
        )
    if not is_unsigned:
        raise UndecodableImageError(
            "The TIFF stack's samples are not unsigned integers of 8 or 16 bits, so NaN and negative values would "
            "be possible: convert it to 16 bits."
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
