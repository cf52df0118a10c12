"""PNG decoded a few rows at a time (PNG specification, 3rd edition).

Readers of PNG hold the whole image in the samples it is stored in, up to 8 bytes a pixel, and a file of a few
kilobytes can be ten thousand pixels wide and high. Here the compressed stream is inflated by bands of rows, one
band ahead of the one whose filters are undone. Rows that refer to the pixel before alone, as OpenCV writes all of
them, are added up; all five row filters are undone by OpenCV's reader: each band is given to it as a small PNG of
its own, uncompressed, that begins with the last row of the band before. To it the bytes are plain grey or RGB;
what they mean (palette, few bits, transparency, interlacing) is applied to what comes back.

Metadata is never looked at, so what is compressed in it cannot grow.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError
from slidecascade.slides.canvas import BAND_BYTES, Band
from slidecascade.slides.lookahead import ahead

MAX_ROW_PX = 2**20
"""Longest row: what OpenCV reads."""

DAMAGED = "The PNG image cannot be decoded: its data is damaged or incomplete; save it again and resend it."

_LAST_FILTER = 4
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {_GREY: {1, 2, 4, 8, 16}, _PALETTE: {1, 2, 4, 8}}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, column step and row step of the passes of an interlaced image."""

_CARRIERS = {1: (8, _GREY), 2: (16, _GREY), 3: (8, _RGB), 4: (8, _RGBA), 6: (16, _RGB), 8: (16, _RGBA)}
"""Depth and colour type whose pixels have so many bytes: filters know bytes per pixel, and nothing else."""

_SUB = 1
"""The filter whose bytes are differences from those of the pixel before; 0 is none."""

_READ_BYTES = 2**16
"""Compressed bytes inflated at a time: what is left of them is copied whenever a band is complete."""


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The fields of IHDR."""

    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @classmethod
    def parse(cls, ihdr: bytes) -> PngHeader:
        """The header in the 13 bytes of `ihdr`.

        Raises:
            UndecodableImageError: it is no header the specification allows, or its rows are too long.
            struct.error: it is shorter.
        """
        width, height, bits, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", ihdr)
        known = bits in _DEPTHS.get(colour, {8, 16}) and colour in _CHANNELS
        if not known or compression or filters or interlace > 1:
            raise UndecodableImageError("The PNG image's header is damaged: save it again and resend it.")
        if width > MAX_ROW_PX:
            raise UndecodableImageError(
                f"The PNG image is {width} pixels wide, at most {MAX_ROW_PX} are read: send a part of it."
            )
        return cls(width, height, bits, colour, bool(interlace))

    @property
    def pixel_bits(self) -> int:
        return _CHANNELS[self.colour] * self.bits

    def require_palette(self, palette_bytes: int) -> None:
        """Raises UndecodableImageError when the image needs a palette and `palette_bytes` are none.

        A decoder would make everything black.
        """
        if self.colour == _PALETTE and not (3 <= palette_bytes <= 768 and palette_bytes % 3 == 0):
            raise UndecodableImageError("The PNG image has no valid palette: save it again and resend it.")

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of `width` pixels, without its filter."""
        return -(-width * self.pixel_bits // 8)


def decoder_bytes(header: PngHeader) -> int:
    """Most memory decoding takes beyond what comes out: a band of rows, or one long row, some times over."""
    return 24 * (BAND_BYTES + header.row_bytes(header.width))


def read_bands(data: bytes) -> Iterator[Band]:
    """The image of a PNG file whose chunks are whole (see `slidecascade.slides.imageheader`).

    Raises:
        UndecodableImageError: before or between bands: a checksum is wrong, or rows are missing.
    """
    chunks = _chunks(data)
    header = PngHeader.parse(bytes(next(chunks)[1]))
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 3] = 255
    transparent: NDArray[np.uint16] | None = None
    for kind, body in chunks:
        if kind == b"PLTE":
            colours = np.frombuffer(body[: len(body) // 3 * 3], np.uint8).reshape(-1, 3)[:256]
            palette[: len(colours), :3] = colours
            if header.colour == _PALETTE:
                palette = palette[: len(colours)]  # pixels of other colours are damage
        elif kind == b"tRNS" and header.colour == _PALETTE:
            palette[: len(body), 3] = np.frombuffer(body, np.uint8)[: len(palette)]
        elif kind == b"tRNS" and header.colour == _RGB and len(body) == 6:
            transparent = np.frombuffer(body, ">u2").astype(np.uint16)
        elif kind == b"IDAT":
            pixels = _Inflated(_pixel_data(body, chunks))
            for band in _raw_bands(header, pixels):
                yield Band(band.rows, band.columns, _meant(band, header, palette, transparent))
            pixels.finish()
            return
    raise UndecodableImageError(DAMAGED)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and content of the chunks that decide over pixels, their checksums verified.

    What follows IEND is not looked at: nobody has checked that it consists of chunks.
    """
    view, position, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            (checksum,) = struct.unpack_from(">I", data, end)
            if isal_zlib.crc32(view[position + 4 : end]) != checksum:
                raise UndecodableImageError(DAMAGED)
            yield kind, view[position + 8 : end]
        position = end + 4


def _pixel_data(first: memoryview, chunks: Iterator[tuple[bytes, memoryview]]) -> Iterator[memoryview]:
    yield first
    for kind, body in chunks:
        if kind == b"IDAT":
            yield body


class _Inflated:
    """A zlib stream in chunks, read by number of bytes."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = (
            piece[at : at + _READ_BYTES] for piece in pieces for at in range(0, len(piece), _READ_BYTES)
        )
        self._inflater = isal_zlib.decompressobj()
        self._left: bytes | memoryview = b""

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            UndecodableImageError: the stream is damaged or ends before.
        """
        found: list[bytes] = []
        while count:
            piece = self._inflate(count)
            if not piece and not self._left and not self._refill():
                raise UndecodableImageError(DAMAGED)
            found.append(piece)
            count -= len(piece)
        return b"".join(found)

    def finish(self) -> None:
        """Verify the stream's checksum. More rows than the image has are no damage, and not inflated."""
        while not self._inflater.eof and not self._inflate(1) and (self._left or self._refill()):
            pass

    def _inflate(self, most: int) -> bytes:
        try:
            piece: bytes = self._inflater.decompress(self._left, most)
        except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stub declares an instance
            raise UndecodableImageError(DAMAGED) from error
        self._left = b"" if self._inflater.eof else self._inflater.unconsumed_tail
        return piece

    def _refill(self) -> bool:
        """Take the next piece; whether there is one."""
        if self._inflater.eof:
            return False
        self._left = next(self._pieces, b"")
        return bool(self._left)


def _raw_bands(header: PngHeader, pixels: _Inflated) -> Iterator[Band]:
    """The bytes of the rows as stored, ``(h, carrier pixels, samples)``, and which pixels they are."""
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    for first_x, first_y, step_x, step_y in passes:
        width, height = -((first_x - header.width) // step_x), -((first_y - header.height) // step_y)
        if width < 1 or height < 1:
            continue
        columns = slice(first_x, None, step_x)
        for top, samples in _unfiltered(header, pixels, width=width, height=height):
            rows = slice(first_y + top * step_y, first_y + (top + len(samples)) * step_y, step_y)
            yield Band(rows, columns, samples)


def _unfiltered(
    header: PngHeader, pixels: _Inflated, *, width: int, height: int
) -> Iterator[tuple[int, NDArray[np.uint8] | NDArray[np.uint16]]]:
    """First row and bytes of each band of an image, or of one pass of an interlaced one."""
    row_bytes = header.row_bytes(width)
    pixel_bytes = max(1, header.pixel_bits // 8)
    step = max(1, BAND_BYTES // max(row_bytes + 1, width))  # pixels of less than a byte become whole ones
    tops = range(0, height, step)
    above = b""
    bands = ahead(pixels.read(min(step, height - top) * (row_bytes + 1)) for top in tops)
    for top, rows in zip(tops, bands, strict=True):
        samples = _sums(rows, pixel_bytes, row_bytes=row_bytes)
        if samples is None:
            samples = _undo_filters(above + rows, pixel_bytes, row_bytes=row_bytes)
            samples = samples[len(samples) - len(rows) // (row_bytes + 1) :]
        last = samples[-1]
        above = b"\0" + (last.astype(">u2") if last.dtype == np.uint16 else last).tobytes()
        yield top, samples


def _sums(rows: bytes, pixel_bytes: int, *, row_bytes: int) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
    """As `_undo_filters`, three times as fast, where all rows have no filter or Sub; None for others."""
    stored = np.frombuffer(rows, np.uint8).reshape(-1, row_bytes + 1)
    filters = stored[:, 0]
    if filters.max() > _SUB:
        return None
    pixels = stored[:, 1:].reshape(len(stored), -1, pixel_bytes)
    samples = np.add.accumulate(pixels, axis=1, dtype=np.uint8)
    if not filters.all():
        samples[filters == 0] = pixels[filters == 0]
    return samples if _CARRIERS[pixel_bytes][0] == 8 else samples.view(">u2").astype(np.uint16)


def _undo_filters(rows: bytes, pixel_bytes: int, *, row_bytes: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """``(h, w, C)`` samples of rows that begin with their filter."""
    if max(rows[:: row_bytes + 1]) > _LAST_FILTER:
        raise UndecodableImageError(DAMAGED)  # libpng would print it, too
    bits, colour = _CARRIERS[pixel_bytes]
    ihdr = struct.pack(">IIBBBBB", row_bytes // pixel_bytes, len(rows) // (row_bytes + 1), bits, colour, 0, 0, 0)
    chunks = [_chunk(b"IHDR", ihdr), _chunk(b"IDAT", zlib.compress(rows, 0)), _chunk(b"IEND", b"")]
    png = np.frombuffer(b"".join([b"\x89PNG\r\n\x1a\n", *chunks]), np.uint8)
    try:
        samples = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UndecodableImageError(DAMAGED) from error
    if samples is None:
        raise UndecodableImageError(DAMAGED)
    if samples.ndim == 2:
        return np.asarray(samples[..., None])
    code = cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(samples, code, dst=samples))


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)])


def _meant(
    band: Band, header: PngHeader, palette: NDArray[np.uint8], transparent: NDArray[np.uint16] | None
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The samples of a band, given the bytes of its rows."""
    raw = band.samples
    if header.bits < 8:
        raw = _unpacked(raw[..., 0].astype(np.uint8, copy=False), header.bits)
        raw = raw[:, : -((band.columns.start - header.width) // (band.columns.step or 1))]
    if header.colour == _PALETTE:
        if raw.max(initial=0) >= len(palette):
            raise UndecodableImageError(DAMAGED)
        colours = palette.view(np.uint32)[raw[..., 0]].view(np.uint8)  # (h, w, 1) to (h, w, 4)
        return colours[..., :3] if (palette[:, 3] == 255).all() else colours
    if header.bits < 8:
        return raw * np.uint8(255 // ((1 << header.bits) - 1))
    if header.colour == _GREY_ALPHA:
        # Two bytes of grey and alpha came as one 16-bit sample, four of them as 8-bit RGBA.
        return raw.astype(">u2").view(np.uint8) if header.bits == 8 else raw.view(">u2").astype(np.uint16)
    if transparent is not None:
        transparent = transparent.astype(raw.dtype)
        alpha = np.where((raw == transparent).all(axis=2, keepdims=True), 0, np.iinfo(raw.dtype).max)
        return np.concatenate([raw, alpha.astype(raw.dtype)], axis=2)
    return raw


def _unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """``(h, w, 1)`` values of 1, 2 or 4 bits, eight of which lie in `bits` bytes, the first in the highest."""
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    values = packed[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return np.asarray(values.reshape(len(packed), -1, 1), np.uint8)
