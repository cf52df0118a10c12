"""The slow and obvious decoder of uploads: the whole image at once, in the samples it is stored in.

The oracle of `slidecascade.slides.upload`, which decodes by bands into one array.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from slidecascade.errors import UndecodableImageError
from slidecascade.slides.alpha import on_white
from slidecascade.slides.imageheader import ImageHeader, MediaType, read_header
from slidecascade.slides.source import Rgb

_DAMAGED = "The image cannot be decoded."


def decode_whole(data: bytes) -> Rgb:
    """``(H, W, 3)`` uint8 of an upload."""
    header = read_header(data)
    if header.media_type in ("image/webp", "image/png") or header.bits == 16:
        rgb = _decode_with_opencv(data)
        orientation = 1 if header.media_type == "image/tiff" else header.orientation
    else:
        rgb = _decode_with_pillow(data, header)
        orientation = 1 if header.media_type == "image/tiff" else header.orientation
    if rgb.shape[:2] not in {(header.size.height, header.size.width), (header.size.width, header.size.height)}:
        raise UndecodableImageError(_DAMAGED)
    return np.ascontiguousarray(_turned(rgb, orientation))


_PILLOW_FILES: dict[MediaType, type[ImageFile.ImageFile]] = {
    "image/jpeg": JpegImagePlugin.JpegImageFile,
    "image/tiff": TiffImagePlugin.TiffImageFile,
}
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


def _decode_with_pillow(data: bytes, header: ImageHeader) -> Rgb:
    """8-bit JPEG and TIFF: where data is missing Pillow says so, OpenCV fills with grey and prints."""
    # Pillow's own guard against large images would refuse what the caller's limit, checked before, allows.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with _PILLOW_FILES[header.media_type](io.BytesIO(data)) as image:
            image.load()
            return _rgb_from_pillow(image)
    except _PILLOW_ERRORS as error:
        raise UndecodableImageError(_DAMAGED) from error


def _rgb_from_pillow(image: Image.Image) -> Rgb:
    """By bands of rows, so that the image is never held a third time."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, 256):
        bottom = min(top + 256, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)).convert(mode))
        rgb[top:bottom] = on_white(band) if mode == "RGBA" else band
    return rgb


def _decode_with_opencv(data: bytes) -> Rgb:
    """PNG, whose missing rows only OpenCV's reader notices; WebP; and 16-bit samples, which Pillow cuts to 8."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # failures are raised and not printed
    try:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UndecodableImageError(_DAMAGED) from error
    if samples is None:
        raise UndecodableImageError(_DAMAGED)
    if samples.dtype == np.uint16:
        samples = _narrowed(samples)
    if samples.ndim == 2:
        return np.asarray(cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB), np.uint8)
    if samples.shape[2] == 4:
        return on_white(np.asarray(cv2.cvtColor(samples, cv2.COLOR_BGRA2RGBA), np.uint8))
    return np.asarray(cv2.cvtColor(samples, cv2.COLOR_BGR2RGB), np.uint8)


def _narrowed(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """``(H, W)``, or ``(H, W, C)`` with blue first and perhaps alpha last."""
    if samples.ndim == 2:
        return narrow_grey(samples)
    alpha = (samples[..., 3:] >> 8).astype(np.uint8)
    return np.concatenate([narrow_colour(samples[..., :3]), alpha], axis=2)


def _turned(rgb: Rgb, orientation: int) -> Rgb:
    """The image as EXIF `orientation` (1 to 8) wants it shown."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return rgb


LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9


def narrow_grey(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """``(H, W)`` uint16 to uint8 by percentiles."""
    # calcHist counts in place; bincount would first copy the image to 64 bits a sample.
    counts = cv2.calcHist([samples], [0], None, [65536], [0, 65536])
    cumulated = np.cumsum(counts, dtype=np.float64)
    shares = np.array([LOW_PERCENT, HIGH_PERCENT]) / 100 * cumulated[-1]
    low, high = np.searchsorted(cumulated, shares)
    return _scaled(samples, low=int(low), high=max(int(high), int(low) + 255))


def narrow_colour(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """``(H, W, C)`` uint16 to uint8 by bit depth."""
    largest = int(samples.max())
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    return _scaled(samples, low=0, high=(1 << bits) - 1)


def _scaled(samples: NDArray[np.uint16], *, low: int, high: int) -> NDArray[np.uint8]:
    levels = np.arange(65536, dtype=np.float64)
    table = np.clip(np.rint((levels - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    narrowed: NDArray[np.uint8] = table[samples]
    return narrowed
