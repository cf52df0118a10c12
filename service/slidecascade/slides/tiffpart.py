"""Some strips or tiles of a TIFF image, written as a TIFF file of their own."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Size
from slidecascade.slides import tiff
from slidecascade.slides.tiff import Directory, Field, formats

_LONG, _LONG8 = 4, 16


def write_part(directory: Directory, size: Size, pieces: Sequence[bytes | memoryview]) -> bytes:
    """A file of `size` pixels that is stored as the image of `directory` is, in the strips or tiles `pieces`.

    It says nothing of orientation: decoders give the pixels as stored.
    """
    tiled = tiff.TILE_OFFSETS in directory.tags
    lengths = np.array([len(piece) for piece in pieces], np.uint64)
    fields = directory.fields | {
        tiff.WIDTH: _numbers(directory, [size.width]),
        tiff.HEIGHT: _numbers(directory, [size.height]),
        tiff.TILE_BYTES if tiled else tiff.STRIP_BYTES: _numbers(directory, lengths),
    }
    if not tiled:
        rows = min(directory.part_size.height, size.height)
        fields[tiff.ROWS_PER_STRIP] = _numbers(directory, [rows])
    offsets_tag = tiff.TILE_OFFSETS if tiled else tiff.STRIP_OFFSETS
    fields[offsets_tag] = _numbers(directory, lengths)  # as many as there will be
    head_bytes = len(_head(directory, fields))
    fields[offsets_tag] = _numbers(directory, np.cumsum(lengths) - lengths + np.uint64(head_bytes))
    return b"".join([_head(directory, fields), *pieces])


def _numbers(directory: Directory, values: NDArray[np.uint64] | list[int]) -> Field:
    kind, dtype = (_LONG8, "u8") if directory.big else (_LONG, "u4")
    return Field(kind, len(values), np.asarray(values, np.uint64).astype(directory.order + dtype).tobytes())


def _head(directory: Directory, fields: dict[int, Field]) -> bytes:
    """The file up to its pixels: header, directory, and the values that do not fit into it."""
    order, big = directory.order, directory.big
    count_format, entry_format, pointer = formats(big)
    inline = struct.calcsize("=" + pointer)
    mark = b"II" if order == "<" else b"MM"
    begin = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    entry_bytes = struct.calcsize("=" + entry_format) + inline
    values_at = len(begin) + struct.calcsize("=" + count_format) + len(fields) * entry_bytes + inline
    entries, values = [struct.pack(order + count_format, len(fields))], b""
    for tag, field in sorted(fields.items()):
        place = field.value.ljust(inline, b"\0")
        if len(field.value) > inline:
            place = struct.pack(order + pointer, values_at + len(values))
            values += field.value + b"\0" * (-len(field.value) % 8)
        entries.append(struct.pack(order + entry_format, tag, field.kind, field.count) + place)
    return b"".join([begin, *entries, bytes(inline), values])
