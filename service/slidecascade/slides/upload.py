"""Uploaded images: bytes in, a source with one level out.

What is done to the pixels, and nothing else: EXIF orientation is applied, transparency is laid on white,
grey becomes three equal channels, 16 bits become 8 (rule in `slidecascade.slides.depth`). Colour profiles
are left alone: networks were trained on stored values. Resolution tags are not read, since most files
claim the 72 dpi of a screen: an upload has no pixel size until the request gives one.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from slidecascade.errors import RegionTooLargeError, UndecodableImageError
from slidecascade.geometry import Box, Mpp, Size
from slidecascade.slides import jpeg, libtiff, storedparts
from slidecascade.slides.alpha import on_white
from slidecascade.slides.content import id_of_bytes
from slidecascade.slides.depth import narrow_colour, narrow_grey
from slidecascade.slides.imageheader import ImageHeader, MediaType, read_header
from slidecascade.slides.source import Rgb
from slidecascade.slides.tiff import Bytes, first_directory

_DAMAGED = "The image cannot be decoded: its data is damaged or in a variant that is not read here."


@dataclass(frozen=True, slots=True)
class RegionImage:
    """A decoded upload as a `Source`; `pixels` are not to be written to.

    `digest` is that of the encoded bytes; an image that never was encoded is identified by its pixels.
    """

    pixels: Rgb
    digest: str | None = None

    @property
    def content_id(self) -> str:
        """See `slidecascade.slides.content`."""
        if self.digest is not None:
            return self.digest
        return id_of_bytes(repr(self.pixels.shape).encode() + self.pixels.tobytes())

    @property
    def bounds_l0(self) -> Box | None:
        return None

    @property
    def size_l0(self) -> Size:
        return Size(self.pixels.shape[1], self.pixels.shape[0])

    @property
    def mpp(self) -> Mpp | None:
        return None

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return (1.0,)

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return (self.size_l0,)

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]:
        return "image-pixels"

    def read_level(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, a view; `level` is 0."""
        if level != 0:
            raise ValueError(f"An image has no level {level}.")
        return self.pixels[box.y : box.bottom, box.x : box.right]

    def unstored_share(self, level: int, box: Box) -> float:  # noqa: ARG002 - of `Source`
        """0: a decoded image has all its pixels."""
        return 0.0


def decode_image(data: bytes, *, max_px: int) -> RegionImage:
    """Decode PNG, JPEG, TIFF or WebP bytes of at most `max_px` pixels.

    Raises:
        RegionTooLargeError: more pixels than `max_px`, in the image or in one of its tiles; told from the header,
            before any decoding.
        UndecodableImageError: not an image of these formats, or damaged, or truncated.
    """
    header = read_header(data)
    if header.size.area > max_px:
        raise RegionTooLargeError(
            f"The image has {header.size.width} x {header.size.height} pixels; at most {max_px} are taken "
            "at a time: send a part of it, or name it as a slide with a region."
        )
    if header.tile is not None and header.tile.area > max_px:
        raise RegionTooLargeError(
            f"The TIFF image of {header.size.width} x {header.size.height} pixels is stored in tiles of "
            f"{header.tile.width} x {header.tile.height}; at most {max_px} pixels are taken at a time: save it "
            "with smaller tiles."
        )
    if header.media_type in ("image/webp", "image/png") or header.bits == 16:
        rgb = _decode_with_opencv(data)
    else:
        rgb = _decode_followed(data, header)
    if rgb.shape[:2] not in {(header.size.height, header.size.width), (header.size.width, header.size.height)}:
        raise UndecodableImageError(_DAMAGED)
    rgb = np.ascontiguousarray(_turned(rgb, header.orientation))
    rgb.flags.writeable = False
    return RegionImage(rgb, id_of_bytes(data))


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


def _decode_followed(data: bytes, header: ImageHeader) -> Rgb:
    """JPEG and 8-bit TIFF, whose decoders fill what is missing with grey: first they are followed to their end."""
    rgb: Rgb | None = None
    if header.media_type == "image/jpeg":
        rgb, damage = jpeg.decode_whole(data)
    else:
        damage = storedparts.first_damage(Bytes(data), first_directory(Bytes(data)))
    if damage is not None:
        raise UndecodableImageError(
            f"The image is truncated or damaged: its data cannot be followed ({damage}); send it again."
        )
    return _decode_with_pillow(data, header) if rgb is None else rgb


def _decode_with_pillow(data: bytes, header: ImageHeader) -> Rgb:
    """8-bit TIFF and CMYK JPEG: where data is missing Pillow says so, OpenCV fills with grey and prints."""
    # Pillow's own guard against large images would refuse what the caller's limit, checked before, allows.
    Image.MAX_IMAGE_PIXELS = None
    libtiff.silence()
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
    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # failures are told to the caller, not to the terminal
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
