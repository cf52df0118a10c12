"""JPEG streams cut short and closed with an end marker, alone and in the tiles of TIFF files."""

from __future__ import annotations

import io
import struct
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

END = b"\xff\xd9"


def cut_jpeg(data: bytes, kept: float = 0.5) -> bytes:
    """The first part of a JPEG stream, closed as a whole one is."""
    return data[: int(len(data) * kept)] + END


def cut_parts(data: bytes, *indices: int) -> bytes:
    """A TIFF file of which the strips or tiles `indices` end in their middle, with an end marker."""
    damaged = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        image = file.pages[0]
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


def tiled_jpeg_tiff(pixels: NDArray[np.uint8], tile_px: int, *, planar: bool = False, **options: Any) -> bytes:
    """A TIFF file of ``(H, W)`` or ``(H, W, 3)`` pixels in JPEG tiles; of one channel each when `planar`."""
    missing = [(0, -side % tile_px) for side in pixels.shape[:2]]
    filled = np.pad(pixels, [*missing, (0, 0)][: pixels.ndim], mode="edge")
    planes = np.moveaxis(filled, 2, 0) if planar else [filled]
    tiles = [
        _encoded(plane[y : y + tile_px, x : x + tile_px], **options)
        for plane in planes
        for y in range(0, pixels.shape[0], tile_px)
        for x in range(0, pixels.shape[1], tile_px)
    ]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    lengths = [len(tile) for tile in tiles]
    offsets = [8 + sum(lengths[:index]) for index in range(len(tiles))]
    return _directory(
        b"".join(tiles),
        {
            256: [pixels.shape[1]],
            257: [pixels.shape[0]],
            258: [8] * samples,
            259: [7],
            262: [1 if samples == 1 else 2 if planar or options.get("keep_rgb") else 6],
            277: [samples],
            284: [2 if planar else 1],
            322: [tile_px],
            323: [tile_px],
            324: offsets,
            325: lengths,
        },
    )


def _encoded(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", **{"subsampling": 0, **options})
    return stream.getvalue()


def _directory(data: bytes, tags: dict[int, list[int]]) -> bytes:
    """A little-endian TIFF file of `data` from byte 8 on and one directory of LONG tags."""
    data += bytes(len(data) % 2)
    start = 8 + len(data)
    after = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        inline = packed if len(numbers) == 1 else struct.pack("<I", after + len(values))
        values += packed if len(numbers) > 1 else b""
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + inline
    return (
        struct.pack("<2sHI", b"II", 42, start) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + values
    )
