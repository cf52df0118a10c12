"""PNG files of every kind, written by the book: colour types, bit depths, filters, interlacing, transparency."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, column step, row step."""


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, bits: int, colour: int, *, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced)))


def png(ihdr: bytes, pixel_stream: bytes, *, before: Sequence[bytes] = (), idat_bytes: int = 2**31) -> bytes:
    """A file of these parts; `pixel_stream` is compressed already and cut into chunks of `idat_bytes`."""
    pieces = [pixel_stream[at : at + idat_bytes] for at in range(0, len(pixel_stream), idat_bytes)]
    return b"".join([SIGNATURE, ihdr, *before, *(chunk(b"IDAT", piece) for piece in pieces), chunk(b"IEND", b"")])


def encode(
    samples: NDArray[np.uint16],
    bits: int,
    colour: int,
    *,
    interlaced: bool = False,
    before: Sequence[bytes] = (),
    idat_bytes: int = 2**31,
) -> bytes:
    """``(H, W, C)`` samples of `bits` each as a PNG whose rows use the five filters in turn."""
    height, width, _ = samples.shape
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(
        b"".join(_filtered(samples[y::dy, x::dx], bits)) for x, y, dx, dy in passes if x < width and y < height
    )
    ihdr = header(width, height, bits, colour, interlaced=interlaced)
    return png(ihdr, zlib.compress(rows), before=before, idat_bytes=idat_bytes)


def zeros(width: int, height: int, *, bits: int = 16, colour: int = RGBA, interlaced: bool = False) -> bytes:
    """A valid image whose every sample is 0: compressed a thousandfold, in a moment."""
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    pixel_bits = CHANNELS[colour] * bits
    stream_bytes = sum(
        (1 + -(-(-((x - width) // dx) * pixel_bits) // 8)) * -((y - height) // dy) for x, y, dx, dy in passes
    )
    return png(header(width, height, bits, colour, interlaced=interlaced), zlib_zeros(stream_bytes))


def zlib_zeros(count: int) -> bytes:
    """A zlib stream of `count` bytes of zero, put together from one piece."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(2**20)
    packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)  # the next piece looks the same
    last = packer.compress(bytes(count % len(piece))) + packer.flush()
    checksum = count % 65521 << 16 | 1
    return b"\x78\xda" + packed * (count // len(piece)) + last + struct.pack(">I", checksum)


def _filtered(samples: NDArray[np.uint16], bits: int) -> Iterator[bytes]:
    """PNG specification, section 9: each row by another of the filters None, Sub, Up, Average, Paeth."""
    step = max(1, samples.shape[2] * bits // 8)
    above = np.zeros(0, np.int32)
    for index, row in enumerate(samples):
        raw = _packed(row.reshape(-1), bits).astype(np.int32)
        above = above if len(above) else np.zeros_like(raw)
        left = np.concatenate([np.zeros(step, np.int32), raw])[: len(raw)]
        corner = np.concatenate([np.zeros(step, np.int32), above])[: len(raw)]
        kind = index % 5
        predicted = (np.zeros_like(raw), left, above, (left + above) // 2, _paeth(left, above, corner))[kind]
        yield bytes([kind]) + ((raw - predicted) & 255).astype(np.uint8).tobytes()
        above = raw


def _paeth(left: NDArray[np.int32], above: NDArray[np.int32], corner: NDArray[np.int32]) -> NDArray[np.int32]:
    guess = left + above - corner
    from_left, from_above, from_corner = (abs(guess - side) for side in (left, above, corner))
    nearest = np.where(from_above <= from_corner, above, corner)
    return np.where((from_left <= from_above) & (from_left <= from_corner), left, nearest)


def _packed(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    if bits == 16:
        return values.astype(">u2").view(np.uint8)
    if bits == 8:
        return values.astype(np.uint8)
    digits = (values[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.astype(np.uint8).reshape(-1))
