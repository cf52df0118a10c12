"""The directories of TIFF files: where an image's strips or tiles are, and how they are stored.

TIFF 6.0 and BigTIFF. Nothing is decoded, and only the tags named here are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION = 256, 257, 258, 259, 262, 266, 274
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
SAMPLES, ROWS_PER_STRIP, PLANAR, SAMPLE_FORMAT = 277, 278, 284, 339
TILE_WIDTH, TILE_HEIGHT, JPEG_TABLES = 322, 323, 347
PREDICTOR, EXTRA_SAMPLES = 317, 338
NEW_SUBFILE_TYPE, DESCRIPTION, SUB_IFDS = 254, 270, 330
_READ_TAGS = frozenset(
    {
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION),
        *(STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES),
        *(SAMPLES, ROWS_PER_STRIP, PLANAR, SAMPLE_FORMAT, TILE_WIDTH, TILE_HEIGHT, JPEG_TABLES),
        *(PREDICTOR, EXTRA_SAMPLES, NEW_SUBFILE_TYPE, SUB_IFDS),
    }
)
DECODING_TAGS = frozenset(
    {
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, ROWS_PER_STRIP, PLANAR),
        *(280, 281, 292, 293, 317, 320, TILE_WIDTH, TILE_HEIGHT, 332, 334, 336, 338, SAMPLE_FORMAT),
        *(340, 341, JPEG_TABLES, 529, 530, 531, 532, 50674),
    }
)
"""What a decoder must know besides where the pixels are: sample values, fax options, predictor, palette, inks,
alpha, JPEG tables, YCbCr, LERC. The rest is about the image."""

UNCOMPRESSED, OLD_JPEG_COMPRESSION, JPEG_COMPRESSION = 1, 6, 7
DEFLATE_COMPRESSIONS, JPEG_2000_COMPRESSIONS = (8, 32946), (33003, 33004, 33005, 34712)
"""Values of COMPRESSION."""

RGB, YCBCR = 2, 6
"""Values of PHOTOMETRIC."""

PLANES_APART = 2
"""Value of PLANAR."""

_DTYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}
"""numpy type of the field types BYTE, SHORT, LONG, UNDEFINED, IFD, LONG8 and IFD8."""
_FIELD_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes of one value by field type; 0 for types that do not exist."""

_TEXT = 2
"""The field type ASCII."""

_MAX_TEXT_BYTES = 2**24
_MAX_ENTRIES = 4096
_MAX_VALUES = 2**21
"""Most numbers in one tag: strips or tiles of the largest images, with room to spare."""

_MAX_DIRECTORIES = 1000

_TRUNCATED = "The TIFF image ends before its last pixel: the file is truncated or damaged; send it again."
_TOO_MANY_PARTS = "The TIFF image is cut into far more parts than any program writes: save it again."


class ByteSource(Protocol):
    """Bytes in memory or in a file."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, fewer where the source ends before."""
        ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """A `ByteSource` in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@dataclass(frozen=True, slots=True)
class Field:
    """A tag as it is in the file: field type, number of values, and their bytes in the file's order."""

    kind: int
    count: int
    value: bytes


def _size(width: int, height: int) -> Size:
    if width < 1 or height < 1:
        raise UndecodableImageError("The TIFF image states a size of zero pixels: save it again and resend it.")
    return Size(width, height)


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a TIFF file: its tags by number, and where the next directory is (0: nowhere).

    `description` is the free text that OME-XML and ImageJ write. `fields` holds those of `DECODING_TAGS` as they
    are in the file, in byte `order` (as struct and numpy write it); `big`: the file is a BigTIFF.
    """

    order: str
    big: bool
    tags: dict[int, NDArray[np.uint64]]
    fields: dict[int, Field]
    next_offset: int
    description: str | None = None

    def first(self, tag: int, default: int) -> int:
        return int(self.tags[tag][0]) if tag in self.tags else default

    def all(self, tag: int) -> NDArray[np.uint64]:
        return self.tags.get(tag, np.zeros(0, np.uint64))

    @property
    def size(self) -> Size:
        """The image in pixels. Raises UndecodableImageError where the file states none."""
        return _size(self.first(WIDTH, 0), self.first(HEIGHT, 0))

    @property
    def part_size(self) -> Size:
        """A stored part in pixels: a tile, or a strip of the image's whole width. Raises as `size`."""
        if TILE_OFFSETS in self.tags:
            return _size(self.first(TILE_WIDTH, 0), self.first(TILE_HEIGHT, 0))
        return _size(self.size.width, min(self.first(ROWS_PER_STRIP, self.size.height), self.size.height))

    @property
    def part_count(self) -> int:
        """Stored parts that the image has pixels in, of all planes."""
        part, size = self.part_size, self.size
        planes = self.first(SAMPLES, 1) if self.first(PLANAR, 1) == PLANES_APART else 1
        return planes * -(-size.width // part.width) * -(-size.height // part.height)

    @property
    def part_offsets(self) -> NDArray[np.uint64]:
        return self.all(TILE_OFFSETS if TILE_OFFSETS in self.tags else STRIP_OFFSETS)

    @property
    def part_bytes(self) -> NDArray[np.uint64]:
        return self.all(TILE_BYTES if TILE_OFFSETS in self.tags else STRIP_BYTES)

    def part(self, source: ByteSource, index: int) -> bytes:
        """The stored bytes of a strip or tile."""
        return source.read(int(self.part_offsets[index]), int(self.part_bytes[index]))

    @property
    def jpeg_tables(self) -> bytes:
        """The tables that all JPEG parts of the image share, as an abbreviated stream; empty without them."""
        return self.all(JPEG_TABLES).astype(np.uint8).tobytes()


def directories(source: ByteSource) -> Iterator[Directory]:
    """All images of the file in its order.

    Raises:
        UndecodableImageError, struct.error: the file is damaged, or no TIFF.
    """
    offset, seen = _first_offset(source), set[int]()
    while offset and offset not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(offset)
        directory = read_directory(source, offset)
        yield directory
        offset = directory.next_offset


def first_directory(source: ByteSource) -> Directory:
    """The first image of the file; raises what `directories` raises."""
    return read_directory(source, _first_offset(source))


def read_directory(source: ByteSource, offset: int) -> Directory:
    """The directory at `offset`; raises what `directories` raises."""
    order, big = _layout(source)
    count_format, entry_format, pointer = formats(big)
    count_bytes, inline = struct.calcsize("=" + count_format), struct.calcsize("=" + pointer)
    (count,) = struct.unpack(order + count_format, source.read(offset, count_bytes))
    if count > _MAX_ENTRIES:
        raise UndecodableImageError("The TIFF image's directory is damaged: save it again and resend it.")
    entry_bytes = struct.calcsize("=" + entry_format) + inline
    entries = source.read(offset + count_bytes, count * entry_bytes + inline)
    if len(entries) < count * entry_bytes + inline:
        raise UndecodableImageError(_TRUNCATED)
    tags: dict[int, NDArray[np.uint64]] = {}
    fields: dict[int, Field] = {}
    description: str | None = None
    for index in range(count):
        tag, kind, length = struct.unpack_from(order + entry_format, entries, index * entry_bytes)
        field_bytes = length * (_FIELD_BYTES[kind] if kind < len(_FIELD_BYTES) else 0)
        field = entries[(index + 1) * entry_bytes - inline : (index + 1) * entry_bytes]
        inside = field_bytes <= inline
        at = 0 if inside else struct.unpack(order + pointer, field)[0]
        if at + field_bytes > source.size:
            raise UndecodableImageError(_TRUNCATED)
        if tag == DESCRIPTION and kind == _TEXT and 0 < field_bytes <= _MAX_TEXT_BYTES:
            text = field[:field_bytes] if inside else source.read(at, field_bytes)
            description = text.rstrip(b"\0").decode("utf-8", "replace")
        if not field_bytes or tag not in _READ_TAGS | DECODING_TAGS:
            continue
        if length > _MAX_VALUES:
            raise UndecodableImageError(_TOO_MANY_PARTS)
        values = field[:field_bytes] if inside else source.read(at, field_bytes)
        if tag in DECODING_TAGS:
            fields[tag] = Field(kind, length, values)
        if tag in _READ_TAGS and kind in _DTYPES:
            tags[tag] = np.frombuffer(values, order + _DTYPES[kind], length).astype(np.uint64)
    (next_offset,) = struct.unpack_from(order + pointer, entries, count * entry_bytes)
    return Directory(order, big, tags, fields, int(next_offset), description)


def formats(big: bool) -> tuple[str, str, str]:
    """struct formats of the number of fields, of a field's tag, type and count, and of an offset."""
    return ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")


def one_strip(strip: bytes, size: Size, tags: Mapping[int, NDArray[np.uint64]], order: str) -> bytes:
    """A TIFF file of `size` whose only strip has the bytes `strip`, stored as `tags` say in byte order `order`."""
    own = {WIDTH: size.width, HEIGHT: size.height, ROWS_PER_STRIP: size.height, STRIP_OFFSETS: 8}
    values = {tag: [number] for tag, number in {**own, STRIP_BYTES: len(strip)}.items()}
    values |= {tag: numbers.tolist() for tag, numbers in tags.items()}
    start = 8 + len(strip) + len(strip) % 2
    after = start + 2 + 12 * len(values) + 4
    entries, tail = b"", b""
    for tag, numbers in sorted(values.items()):
        kind, code = (4, "I") if tag in own or tag == STRIP_BYTES else (3, "H")
        field = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(field) > 4:
            tail, field = tail + field, struct.pack(order + "I", after + len(tail))
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + field.ljust(4, b"\0")
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    count = struct.pack(order + "H", len(values))
    return b"".join([header, strip, bytes(len(strip) % 2), count, entries, bytes(4), tail])


def byte_order(source: ByteSource) -> str:
    """``<`` or ``>``, as struct and numpy write it."""
    return _layout(source)[0]


def _first_offset(source: ByteSource) -> int:
    order, big = _layout(source)
    pointer, at = ("Q", 8) if big else ("I", 4)
    (offset,) = struct.unpack(order + pointer, source.read(at, struct.calcsize("=" + pointer)))
    return int(offset)


def _layout(source: ByteSource) -> tuple[str, bool]:
    """Byte order (as struct and numpy write it) and whether it is BigTIFF."""
    start = source.read(0, 4)
    order = "<" if start[:2] == b"II" else ">"
    (version,) = struct.unpack(order + "H", start[2:])
    return order, version == 43
