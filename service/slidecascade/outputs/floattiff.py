"""Maps of 32-bit floats as TIFF, with the size of a pixel and a text for each page."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LONG, _SHORT, _ASCII, _RATIONAL = 4, 3, 2, 5
_CENTIMETRE: Final = 3
_UM_PER_CM: Final = 10_000
_SOFTWARE: Final = b"SlideCascade\0"


def encode(pages: Sequence[tuple[NDArray[np.float32], str]], *, pixel_um: float) -> bytes:
    """Baseline TIFF 6.0, little-endian, one uncompressed strip a page."""
    parts = [b"II*\0", struct.pack("<I", 8)]
    length = 8
    for index, (values, text) in enumerate(pages):
        directory = _directory(values, text, pixel_um=pixel_um, start=length, is_last=index + 1 == len(pages))
        parts.append(directory)
        length += len(directory)
    return b"".join(parts)


def _directory(values: NDArray[np.float32], text: str, *, pixel_um: float, start: int, is_last: bool) -> bytes:
    """A directory at offset `start`, and behind it what does not fit into it: texts, fractions, pixels."""
    rows, columns = values.shape
    pixels = np.ascontiguousarray(values, "<f4").tobytes()
    resolution = Fraction(_UM_PER_CM / pixel_um).limit_denominator(2**20)
    ratio = struct.pack("<II", resolution.numerator, resolution.denominator)
    described = text.encode("ascii") + b"\0"
    described += b"\0" * (len(described) % 2)
    software = _SOFTWARE + b"\0" * (len(_SOFTWARE) % 2)
    entries = [
        (256, _LONG, 1, columns),
        (257, _LONG, 1, rows),
        (258, _SHORT, 1, 32),
        (259, _SHORT, 1, 1),
        (262, _SHORT, 1, 1),
        (270, _ASCII, len(described), described),
        (273, _LONG, 1, pixels),
        (277, _SHORT, 1, 1),
        (278, _LONG, 1, max(1, rows)),
        (279, _LONG, 1, len(pixels)),
        (282, _RATIONAL, 1, ratio),
        (283, _RATIONAL, 1, ratio),
        (296, _SHORT, 1, _CENTIMETRE),
        (305, _ASCII, len(software), software),
        (339, _SHORT, 1, 3),
    ]
    behind = start + 2 + 12 * len(entries) + 4
    body, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        number = value
        if isinstance(value, bytes):
            number = behind + len(tail)
            tail += value
        body += struct.pack("<HHII", tag, kind, count, int(number))
    tail += b"\0" * (len(tail) % 2)
    return body + struct.pack("<I", 0 if is_last else behind + len(tail)) + tail
