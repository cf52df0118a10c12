"""What an image file says about itself, read without decoding a pixel.

The four formats are distinguished by their first bytes, never by name or declared media type. Each reader also
follows the file's own structure to its end, because decoders fill what is missing with grey: a file that
stops early is refused here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.slides import pngrows, tiff, tiffbands
from slidecascade.slides.pngrows import PngHeader
from slidecascade.slides.tiff import Bytes, Directory

MediaType = Literal["image/png", "image/jpeg", "image/tiff", "image/webp"]

_TRUNCATED = "The image ends before its last pixel: the file is truncated or damaged; send it again."
_TOO_MANY_PARTS = "The image file is cut into far more parts than any program writes: save it again."
_NOT_AN_IMAGE = "The image is not a PNG, JPEG, TIFF or WebP file: convert it to one of these."


MAX_PARTS = 100_000
"""Most chunks or segments of a file: each is a step in Python, and a file of 256 MB in 4 kB chunks has fewer."""

MAX_SCANS = 100
"""Most scans of a JPEG: each is a pass over the whole image, and progressive encoders write about ten."""

MAX_SCANNED_PX, FEW_SCANS = 10**9, 20
"""Most pixels of all scans together, some seconds of decoding; more only in scans as few as encoders write."""

_FIXED_BYTES = 16 * 2**20
"""What any decoder may take besides so many bytes for each pixel: rows, tables, its own code."""

_WEBP_PIXEL_BYTES = 9
"""Of a WebP image, beyond the three that come out: its decoder holds it more than twice, in 4 bytes a pixel."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """`size` is as stored; `bits` of one sample; `orientation` (EXIF, 1 to 8) is still to be applied.

    `tile` is the size of the tiles a TIFF image is stored in: decoders hold whole ones, however small the image.
    `decoder_bytes` is the most memory decoding takes beyond the three bytes of every pixel that come out.
    """

    media_type: MediaType
    size: Size
    bits: int
    orientation: int = 1
    tile: Size | None = None
    decoder_bytes: int = 0


def read_header(data: bytes) -> ImageHeader:
    """The header of a PNG, JPEG, TIFF or WebP file.

    Raises:
        UndecodableImageError: `data` is something else, is empty, ends early, or stores its samples in a
            way that is not read here.
    """
    if not data:
        raise UndecodableImageError("The image has no bytes: send the file's content.")
    for signature, read in _READERS:
        if data.startswith(signature):
            try:
                return read(data)
            except (struct.error, OverflowError) as error:
                raise UndecodableImageError(_TRUNCATED) from error
    raise UndecodableImageError(_NOT_AN_IMAGE)


def _size(width: int, height: int) -> Size:
    if width < 1 or height < 1:
        raise UndecodableImageError("The image states a size of zero pixels: save it again and resend it.")
    return Size(width, height)


def _read_png(data: bytes) -> ImageHeader:
    """PNG specification, 3rd edition: signature, then chunks (length, type, data, CRC), IHDR first."""
    (kind,) = struct.unpack_from(">4s", data, 12)
    if kind != b"IHDR":
        raise UndecodableImageError(_NOT_AN_IMAGE)
    header = PngHeader.parse(data[16:29])
    size = _size(header.width, header.height)
    orientation: int | None = None
    palette_bytes = 0
    position = 8
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"acTL":
            raise UndecodableImageError("The PNG image is an animation: send one frame.")
        if kind == b"eXIf" and orientation is None:
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        if kind == b"PLTE":
            palette_bytes = length
        position += 12 + length
        if position > len(data):
            raise UndecodableImageError(_TRUNCATED)
        if kind == b"IEND":
            header.require_palette(palette_bytes)
            decoder_bytes = pngrows.decoder_bytes(header)
            return ImageHeader("image/png", size, header.bits, orientation or 1, decoder_bytes=decoder_bytes)
    raise UndecodableImageError(_TOO_MANY_PARTS)


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_WINDOW_BYTES = 2**20
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""A marker with a segment, or the end: not a fill byte, a byte of a scan, or a marker that stands alone."""


def _read_jpeg(data: bytes) -> ImageHeader:
    """ITU T.81 annex B: marker segments, among them scans, up to the end marker."""
    frame: _JpegFrame | None = None
    orientation: int | None = None
    scans = 0
    for marker, start, end in _jpeg_segments(data):
        if marker in _JPEG_FRAMES and frame is None:
            frame = _JpegFrame.parse(marker, data[start:end])
        elif marker == 0xE1 and orientation is None and data[start : start + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[start + 6 : end])
        elif marker == _JPEG_SCAN:
            scans += 1
    if frame is None or scans == 0:
        raise UndecodableImageError(_TRUNCATED)
    size = _size(frame.width, frame.height)
    most = min(MAX_SCANS, max(FEW_SCANS, MAX_SCANNED_PX // size.area))
    if scans > most:
        raise UndecodableImageError(
            f"The JPEG image has {scans} scans, at most {most} are read of {size.width} x {size.height} pixels: "
            "save it again and resend it."
        )
    orientation = orientation or 1
    decoder_bytes = _FIXED_BYTES + frame.pixel_bytes(scans, turned=orientation > 1) * size.area
    return ImageHeader("image/jpeg", size, frame.bits, orientation, decoder_bytes=decoder_bytes)


@dataclass(frozen=True, slots=True)
class _JpegFrame:
    """ITU T.81 annex B.2.2; `sampling` holds the factors of each component, as they are packed in one byte."""

    marker: int
    bits: int
    width: int
    height: int
    sampling: tuple[int, ...]

    @classmethod
    def parse(cls, marker: int, segment: bytes) -> _JpegFrame:
        bits, height, width, components = struct.unpack_from(">BHHB", segment)
        return cls(marker, bits, width, height, tuple(segment[7 : 6 + 3 * components : 3]))

    def pixel_bytes(self, scans: int, *, turned: bool) -> int:
        """Most bytes a pixel takes in the decoder, besides the three that come out."""
        # The coefficients of an image in several scans, 16 bits each, wait for the last one.
        coefficients = 2 * len(self.sampling) if scans > 1 or self.marker in _JPEG_PROGRESSIVE else 0
        if self.sampling[:1] and self.sampling[1:] in {(), (0x11, 0x11)}:
            # Decoded where it belongs, and turned there.
            return max(coefficients, 3 if turned else 0)
        return coefficients + 4  # whatever Pillow must decode: to four bytes


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments before the end marker."""
    position, in_scan = 2, False
    for _ in range(MAX_PARTS):
        if data[position : position + 1] not in (b"\xff", b"") and not in_scan:
            raise UndecodableImageError("The JPEG image is damaged in its header: save it again and resend it.")
        # The pixels of a scan are passed over by the same search: they hold no such marker.
        start = _after_marker(data, position)
        marker = data[start - 1]
        if marker == _JPEG_END:
            return
        (length,) = struct.unpack_from(">H", data, start)
        yield marker, start + 2, start + length
        position = start + length
        in_scan = in_scan or marker == _JPEG_SCAN
    raise UndecodableImageError(_TOO_MANY_PARTS)


def _after_marker(data: bytes, position: int) -> int:
    """Where the next marker from `position` on ends; in windows, between which other threads get their turn."""
    for start in range(position, len(data), _WINDOW_BYTES):
        found = _JPEG_MARKER.search(data, start, start + _WINDOW_BYTES + 1)
        if found is not None:
            return found.end()
    raise UndecodableImageError(_TRUNCATED)


def _read_webp(data: bytes) -> ImageHeader:
    """RFC 9649: a RIFF container; the canvas size is in its first chunk."""
    riff_length, form, chunk = struct.unpack_from("<I4s4s", data, 4)
    if form != b"WEBP":
        raise UndecodableImageError(_NOT_AN_IMAGE)
    if 8 + riff_length > len(data):
        raise UndecodableImageError(_TRUNCATED)
    orientation = 1
    if chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif chunk == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8X":
        flags, low_high = struct.unpack_from("<B3x6s", data, 20)
        if flags & 0x02:
            raise UndecodableImageError("The WebP image is an animation: send one frame.")
        width, height = (int.from_bytes(low_high[at : at + 3], "little") + 1 for at in (0, 3))
        orientation = _webp_orientation(data)
    else:
        raise UndecodableImageError(_NOT_AN_IMAGE)
    size = _size(width, height)
    return ImageHeader(
        "image/webp", size, 8, orientation, decoder_bytes=_FIXED_BYTES + _WEBP_PIXEL_BYTES * size.area
    )


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            return 1
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return _exif_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    raise UndecodableImageError(_TOO_MANY_PARTS)


def _read_tiff(data: bytes) -> ImageHeader:
    """TIFF 6.0 and BigTIFF: the first image of the file."""
    directory = tiff.first_directory(Bytes(data))
    if directory.next_offset:
        following = tiff.read_directory(Bytes(data), directory.next_offset)
        if np.array_equal(following.part_offsets, directory.part_offsets):
            raise UndecodableImageError("The TIFF image's directories form a circle: save it again and resend it.")
        if all(following.first(tag, 0) == directory.first(tag, 0) for tag in (tiff.WIDTH, tiff.HEIGHT)):
            raise UndecodableImageError("The TIFF image is a stack of pages of one size: send one page.")
    check_samples(directory)
    if directory.first(tiff.ROWS_PER_STRIP, 1) < 1:
        raise UndecodableImageError("The TIFF image states strips without rows: save it again and resend it.")
    _check_strips(data, directory)
    size = _size(directory.first(tiff.WIDTH, 0), directory.first(tiff.HEIGHT, 0))
    tile: Size | None = None
    if tiff.TILE_OFFSETS in directory.tags:
        tile = _size(directory.first(tiff.TILE_WIDTH, 0), directory.first(tiff.TILE_HEIGHT, 0))
    orientation = directory.first(tiff.ORIENTATION, 1)
    return ImageHeader(
        "image/tiff",
        size,
        directory.first(tiff.BITS, 1),
        orientation if 1 <= orientation <= 8 else 1,
        tile=tile,
        decoder_bytes=_FIXED_BYTES + tiffbands.decoder_bytes(directory),
    )


def check_samples(directory: Directory) -> None:
    """Whether an image's samples are read here; raises UndecodableImageError with what to do."""
    bits = {int(value) for value in directory.all(tiff.BITS)} or {1}
    if len(bits) > 1 or not bits <= {1, 2, 4, 8, 16} or directory.first(tiff.SAMPLE_FORMAT, 1) not in (1, 4):
        raise UndecodableImageError(
            "The TIFF image's samples are not unsigned integers of at most 16 bits: convert it to 8 or 16 bits."
        )
    samples = directory.first(tiff.SAMPLES, 1)
    planar = directory.first(tiff.PLANAR, 1) == 2 and samples > 1
    if bits == {16} and (planar or samples not in (1, 3, 4) or directory.first(tiff.PHOTOMETRIC, 1) == 0):
        raise UndecodableImageError(
            "The 16-bit TIFF image is neither grey with black as zero nor interleaved RGB or RGBA: "
            "save it as one of these."
        )


def _check_strips(data: bytes, directory: Directory) -> None:
    """Every strip or tile must lie inside the file."""
    offsets = np.concatenate([directory.all(tiff.STRIP_OFFSETS), directory.all(tiff.TILE_OFFSETS)])
    lengths = np.concatenate([directory.all(tiff.STRIP_BYTES), directory.all(tiff.TILE_BYTES)])
    if len(offsets) == 0 or len(offsets) != len(lengths):
        raise UndecodableImageError("The TIFF image does not say where its pixels are: save it again.")
    unwritten = int(np.count_nonzero(lengths == 0))
    if unwritten and directory.first(tiff.COMPRESSION, 1) != 1:
        raise UndecodableImageError(
            f"The TIFF image has no stored pixels in {unwritten} of its {len(lengths)} strips or tiles: the "
            "program that wrote it did not finish; save it again."
        )
    if np.any(offsets > len(data)) or np.any(lengths > len(data) - offsets):
        raise UndecodableImageError(_TRUNCATED)


def _exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block, 1 when the block has none or cannot be read."""
    try:
        orientation = tiff.first_directory(Bytes(exif)).first(tiff.ORIENTATION, 1)
    except (struct.error, OverflowError, UndecodableImageError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


_READERS: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _read_png),
    (b"\xff\xd8\xff", _read_jpeg),
    (b"II*\0", _read_tiff),
    (b"MM\0*", _read_tiff),
    (b"II+\0", _read_tiff),
    (b"MM\0+", _read_tiff),
    (b"RIFF", _read_webp),
)
