"""TIFF files of 16-bit channels and of labels, as OME-TIFF; the same bytes for the same values."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

_SHORT, _LONG, _ASCII = 3, 4, 2
_DEFLATE: Final = 8
_LEVEL: Final = 6


def stack_tiff(planes: NDArray[Any], names: Sequence[str], mpp: float) -> bytes:
    """A page for each plane of ``(H, W, C)``, uint8, uint16 or uint32; `names` and `mpp` are stated in OME-XML.

    A file of more than 4 GiB would need another format; images of that size are not synthesized.
    """
    height, width, _ = planes.shape
    description = _xml(planes, names, mpp).encode() + b"\0"
    parts: list[bytes] = []
    at = 8
    links = [4]
    for index in range(planes.shape[2]):
        plane = np.ascontiguousarray(planes[..., index])
        strip = zlib.compress(plane.astype(plane.dtype.newbyteorder("<")).tobytes(), _LEVEL)
        text = description if index == 0 else b""
        strip_at, text_at = at, at + len(strip) + len(strip) % 2
        body = strip + b"\0" * (len(strip) % 2) + text + b"\0" * (len(text) % 2)
        tags = [
            (254, _LONG, 0), (256, _LONG, width), (257, _LONG, height), (258, _SHORT, 8 * plane.dtype.itemsize),
            (259, _SHORT, _DEFLATE), (262, _SHORT, 1), *([(270, _ASCII, text_at)] if text else []),
            (273, _LONG, strip_at), (277, _SHORT, 1), (278, _LONG, height), (279, _LONG, len(strip)),
            (339, _SHORT, 1),
        ]  # fmt: skip
        counts = {270: len(text)}
        entries = b"".join(struct.pack("<HHII", tag, kind, counts.get(tag, 1), value) for tag, kind, value in tags)
        directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
        links += [at + len(body), at + len(body) + len(directory) - 4]
        parts += [body, directory]
        at += len(body) + len(directory)
    data = bytearray(struct.pack("<2sHI", b"II", 42, 0) + b"".join(parts))
    for place, target in zip(links[::2], links[1::2], strict=False):
        struct.pack_into("<I", data, place, target)
    return bytes(data)


def _xml(planes: NDArray[Any], names: Sequence[str], mpp: float) -> str:
    height, width, count = planes.shape
    channels = "".join(
        f'<Channel ID="Channel:0:{index}" Name={quoteattr(name)} SamplesPerPixel="1"/>'
        for index, name in enumerate(names)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{planes.dtype.name}" '
        f'SizeX="{width}" SizeY="{height}" SizeZ="1" SizeC="{count}" SizeT="1" PhysicalSizeX="{mpp:g}" '
        f'PhysicalSizeY="{mpp:g}">{channels}<TiffData/></Pixels></Image></OME>'
    )
