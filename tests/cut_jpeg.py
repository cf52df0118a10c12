"""JPEG streams cut short and closed with an end marker, alone and in the tiles of TIFF files."""

from __future__ import annotations

import io
from typing import Literal

import tifffile

END = b"\xff\xd9"


def cut_jpeg(data: bytes, kept: float = 0.5) -> bytes:
    """The first part of a JPEG stream, closed as a whole one is."""
    return data[: int(len(data) * kept)] + END


def cut_parts(data: bytes, *indices: int, page: int = 0) -> bytes:
    """A TIFF file of which the strips or tiles `indices` end in their middle, with an end marker."""
    damaged = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        image = file.pages[page]
        for index in indices:
            offset, length = image.dataoffsets[index], image.databytecounts[index]
            half = offset + length // 2
            damaged[half : offset + length] = END + bytes(length - length // 2 - 2)
            _shorten(damaged, image, index, length // 2 + 2)
    return bytes(damaged)


def _shorten(data: bytearray, image: tifffile.TiffPage, index: int, length: int) -> None:
    tag = image.tags["TileByteCounts" if "TileByteCounts" in image.tags else "StripByteCounts"]
    size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
    at = tag.valueoffset + index * size
    order: Literal["little", "big"] = "little" if image.parent.byteorder == "<" else "big"
    data[at : at + size] = length.to_bytes(size, order)
