"""TIFF decoded a few strips or tiles at a time.

libtiff, in Pillow and in OpenCV, decodes whole images into up to 8 bytes a pixel. Strips and tiles are compressed
each by itself, so a run of them is given to the same decoders as a small TIFF file of its own.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Box, Size
from slidecascade.slides import libtiff, tiff
from slidecascade.slides.canvas import BAND_BYTES, Band, row_bands
from slidecascade.slides.tiff import Bytes, Directory, first_directory
from slidecascade.slides.tiffpart import write_part

DAMAGED = "The TIFF image cannot be decoded: its data is damaged or in a variant that is not read here."
_TRUNCATED = "The TIFF image ends before its last pixel: the file is truncated or damaged; send it again."

# UserWarning: doubtful metadata, raised only in a process that turns warnings into errors.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    struct.error,
    zlib.error,
    UserWarning,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels of an image are stored.

    Attributes:
        part: size of a tile; or of a strip, as wide as the image.
        planes: 1, or the number of samples where each has its own strips or tiles.
        samples: of a pixel, of `bits` each.
    """

    size: Size
    part: Size
    planes: int
    samples: int
    bits: int

    @classmethod
    def of(cls, directory: Directory) -> Layout:
        """The layout a directory states.

        Raises:
            UndecodableImageError: strips or tiles without pixels.
        """
        samples = directory.first(tiff.SAMPLES, 1)
        planes = samples if directory.first(tiff.PLANAR, 1) == tiff.PLANES_APART else 1
        part = directory.part_size
        if min(part.width, part.height, samples) < 1:
            raise UndecodableImageError(DAMAGED)
        return cls(directory.size, part, planes, samples, directory.first(tiff.BITS, 1))

    @property
    def across(self) -> int:
        return -(-self.size.width // self.part.width)

    @property
    def down(self) -> int:
        return -(-self.size.height // self.part.height)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a strip, of one plane, when it is not compressed."""
        return -(-self.size.width * (self.samples // self.planes) * self.bits // 8)

    @property
    def part_bytes(self) -> int:
        """Bytes of a strip or tile, all planes, when it is not compressed."""
        return -(-self.part.area * self.samples * self.bits // 8)


def decoder_bytes(directory: Directory) -> int:
    """Most memory decoding takes beyond what comes out: a strip or tile is decoded in one piece, however large."""
    layout = Layout.of(directory)
    if _can_be_cut(directory):
        return 8 * (BAND_BYTES + layout.row_bytes * layout.planes)
    # The strip or tile as compressed, as its bytes, and as pixels: four bytes each in Pillow, as stored in OpenCV.
    pixels = layout.part_bytes if layout.bits == 16 else 4 * layout.part.area
    if directory.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) == tiff.JPEG_COMPRESSION:
        pixels += 2 * layout.samples * layout.part.area  # the coefficients, should it be progressive
    return 8 * BAND_BYTES + layout.part_bytes + pixels + int(directory.part_bytes.max(initial=0))


def read_bands(data: bytes) -> Iterator[Band]:
    """The first image of a TIFF file that `slidecascade.slides.imageheader` has accepted.

    Raises:
        UndecodableImageError: before or between bands: strips or tiles are damaged or missing.
    """
    directory = first_directory(Bytes(data))
    layout = Layout.of(directory)
    if directory.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) == tiff.OLD_JPEG_COMPRESSION:
        raise UndecodableImageError(
            "The TIFF image is compressed in the JPEG style that TIFF gave up in 1995: save it again."
        )
    for box, part in _parts(data, directory, layout):
        yield from _decoded(part, box, bits=layout.bits)


def _parts(data: bytes, directory: Directory, layout: Layout) -> Iterator[tuple[Box, bytes]]:
    """Runs of strips or tiles as TIFF files, and the part of the image each shows."""
    offsets, lengths = _places(directory, layout)
    if _can_be_cut(directory):
        yield from _cut_strips(data, directory, layout, offsets)
        return
    view = memoryview(data)
    fitting = max(1, BAND_BYTES // max(1, layout.part_bytes))
    per_row = min(layout.across, fitting)
    rows = max(1, fitting // layout.across)
    for row in range(0, layout.down, rows):
        for column in range(0, layout.across, per_row):
            box = Box(
                column * layout.part.width,
                row * layout.part.height,
                per_row * layout.part.width,
                rows * layout.part.height,
            ).clipped(Box(0, 0, layout.size.width, layout.size.height))
            taken = [
                (offsets[plane, r, c], lengths[plane, r, c])
                for plane in range(layout.planes)
                for r in range(row, min(row + rows, layout.down))
                for c in range(column, min(column + per_row, layout.across))
            ]
            pieces = [view[int(offset) : int(offset + length)] for offset, length in taken]
            yield box, write_part(directory, box.size, pieces)


def _places(directory: Directory, layout: Layout) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Offsets and lengths of strips or tiles, ``(planes, down, across)``."""
    offsets, lengths = directory.part_offsets, directory.part_bytes
    count = layout.planes * layout.down * layout.across
    if min(len(offsets), len(lengths)) < count:
        raise UndecodableImageError(DAMAGED)
    shape = (layout.planes, layout.down, layout.across)
    return offsets[:count].reshape(shape), lengths[:count].reshape(shape)


def _can_be_cut(directory: Directory) -> bool:
    """Whether strips are rows of bytes, of any number; colours stored for several pixels together are not."""
    return (
        tiff.TILE_OFFSETS not in directory.tags
        and directory.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) == tiff.UNCOMPRESSED
        and directory.first(tiff.PHOTOMETRIC, 1) != tiff.YCBCR
    )


def _cut_strips(
    data: bytes, directory: Directory, layout: Layout, offsets: NDArray[np.uint64]
) -> Iterator[tuple[Box, bytes]]:
    """Strips that are not compressed, which many programs write as a single one, cut into bands of rows."""
    view, width = memoryview(data), layout.size.width
    step = max(1, BAND_BYTES // max(1, layout.row_bytes * layout.planes))
    for row in range(layout.down):
        height = min(layout.part.height, layout.size.height - row * layout.part.height)
        for top in range(0, height, step):
            count = min(step, height - top)
            starts = [int(offset) + top * layout.row_bytes for offset in offsets[:, row, 0]]
            pieces = [view[start : start + count * layout.row_bytes] for start in starts]
            if any(len(piece) < count * layout.row_bytes for piece in pieces):
                raise UndecodableImageError(_TRUNCATED)
            box = Box(0, row * layout.part.height + top, width, count)
            yield box, write_part(directory, box.size, pieces)


def _decoded(part: bytes, box: Box, *, bits: int) -> Iterator[Band]:
    """The pixels of a TIFF file that shows `box`, in bands: strips and tiles may be as large as the image."""
    if bits == 16:
        samples = _with_opencv(part)
        if samples.shape[:2] != (box.height, box.width):
            raise UndecodableImageError(DAMAGED)
        for top, bottom in row_bands(box.width, box.height):
            yield _band(box, top, _rgb_first(samples[top:bottom]))
        return
    # Pillow's own guard against large images would refuse what the caller's limit, checked before, allows.
    Image.MAX_IMAGE_PIXELS = None
    libtiff.silence()
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(part)) as image:
            image.load()
            if image.size != (box.width, box.height):
                raise UndecodableImageError(DAMAGED)
            mode = "RGBA" if image.has_transparency_data else "RGB"
            for top, bottom in row_bands(box.width, box.height):
                rows = image.crop((0, top, box.width, bottom)).convert(mode)
                yield _band(box, top, np.asarray(rows))
    except _PILLOW_ERRORS as error:
        raise UndecodableImageError(DAMAGED) from error


def _band(box: Box, top: int, samples: NDArray[np.uint8] | NDArray[np.uint16]) -> Band:
    rows = slice(box.y + top, box.y + top + len(samples))
    return Band(rows, slice(box.x, box.right), samples)


def _with_opencv(part: bytes) -> NDArray[np.uint16]:
    """``(H, W)`` or ``(H, W, C)``, blue first: 16-bit samples, which Pillow cuts to 8."""
    # Failures are raised to the caller and not printed.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        samples = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UndecodableImageError(DAMAGED) from error
    if samples is None or samples.dtype != np.uint16:
        raise UndecodableImageError(DAMAGED)
    return np.asarray(samples, np.uint16)


def _rgb_first(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    if samples.ndim == 2:
        return samples[..., None]
    code = cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(samples, code), np.uint16)
