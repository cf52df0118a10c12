"""Uploaded images: bytes in, a source with one level out.

What is done to the pixels, and nothing else: EXIF orientation is applied, transparency is laid on white,
grey becomes three equal channels, 16 bits become 8 (rule in `slidecascade.slides.depth`). Colour profiles
are left alone: networks were trained on stored values. Resolution tags are not read, since most files
claim the 72 dpi of a screen: an upload has no pixel size until the request gives one.

Decoding is bounded in memory: see `EncodedImage.peak_bytes`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from slidecascade.errors import RegionTooLargeError, UndecodableImageError
from slidecascade.geometry import Box, Mpp, Size
from slidecascade.slides import jpeg, pngrows, storedparts, tiffbands
from slidecascade.slides.canvas import UNWATCHED, Band, Watch, assemble, row_bands, turned
from slidecascade.slides.channels import RGB
from slidecascade.slides.content import id_of_bytes
from slidecascade.slides.doubts import Stated
from slidecascade.slides.imageheader import ImageHeader, read_header
from slidecascade.slides.source import Rgb
from slidecascade.slides.stack import TiffStack, stack_in
from slidecascade.slides.stackimage import StackImage
from slidecascade.slides.tiff import Bytes, first_directory

_MOST_PADDING = 4
"""Most pixels of all tiles, as a multiple of the largest image: each tile is decoded whole."""

_DAMAGED = "The image cannot be decoded: its data is damaged or in a variant that is not read here."


class OneLevel:
    """What every upload says as a source."""

    __slots__ = ()

    @property
    def size_l0(self) -> Size:
        raise NotImplementedError

    @property
    def bounds_l0(self) -> Box | None:
        return None

    @property
    def stated(self) -> Stated:
        return Stated()

    @property
    def mpp(self) -> Mpp | None:
        return None

    @property
    def channels(self) -> tuple[str, ...]:
        return RGB

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return (1.0,)

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return (self.size_l0,)

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]:
        return "image-pixels"


@dataclass(frozen=True, slots=True)
class RegionImage(OneLevel):
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
    def size_l0(self) -> Size:
        return Size(self.pixels.shape[1], self.pixels.shape[0])

    def read_level(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, a view; `level` is 0."""
        if level != 0:
            raise ValueError(f"An image has no level {level}.")
        return self.pixels[box.y : box.bottom, box.x : box.right]

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Rgb:
        """Those colours of `read_level`."""
        return self.read_level(level, box)[..., list(indices)]

    def unstored_share(self, level: int, box: Box) -> float:  # noqa: ARG002 - of `Source`
        """0: a decoded image has all its pixels."""
        return 0.0


@dataclass(frozen=True, slots=True)
class EncodedImage(OneLevel):
    """The bytes of an upload, not decoded yet, and what is known of the source it will be."""

    data: bytes
    header: ImageHeader
    stack: TiffStack | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        return RGB if self.stack is None else self.stack.names

    @property
    def content_id(self) -> str:
        """See `slidecascade.slides.content`; computed on every access."""
        return id_of_bytes(self.data)

    @property
    def size_l0(self) -> Size:
        stored, across = self.header.size, self.header.orientation >= 5
        return Size(stored.height, stored.width) if across else stored

    @property
    def decoded_bytes(self) -> int:
        """Memory of the decoded pixels: three bytes each; a stack is decoded by the tile."""
        return self.stack.working_bytes if self.stack is not None else 3 * self.header.size.area

    @property
    def peak_bytes(self) -> int:
        """Most memory that decoding takes, the pixels it ends in included and `data` not."""
        return self.decoded_bytes + self.header.decoder_bytes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the decoded pixels."""
        return self.size_l0.height, self.size_l0.width, 3

    def decode(self) -> RegionImage | StackImage:
        """The pixels, decoded in this thread; of a stack, what reads them. Raises as `decode_into`."""
        if self.stack is not None:
            return StackImage(self.stack, self.content_id)
        return RegionImage(self.decode_watched(UNWATCHED), self.content_id)

    def decode_watched(self, watch: Watch) -> Rgb:
        """``(H, W, 3)`` uint8 of an image that is no stack, not to be written to; see `decode_into`."""
        rgb = np.empty(self.shape, np.uint8)
        watch.begun(rgb)
        self.decode_into(rgb, watch)
        rgb.flags.writeable = False
        return rgb

    def decode_into(self, rgb: Rgb, watch: Watch) -> None:
        """Fill `rgb`, a contiguous array of `shape`, with the pixels of an image that is no stack.

        `watch` is notified of rows as they are decoded, and of all of them before this returns.

        Raises:
            UndecodableImageError: they are damaged, incomplete, or stored in a variant that is not read here.
        """
        header, data = self.header, self.data
        fill = partial(assemble, rgb, header.size, header.orientation)
        if header.media_type == "image/png":
            fill(partial(pngrows.read_bands, data), watch)
        elif header.media_type == "image/tiff":
            _refuse_damage(storedparts.first_damage(Bytes(data), first_directory(Bytes(data))))
            fill(partial(tiffbands.read_bands, data), watch)
        elif header.media_type == "image/webp":
            fill(partial(_webp_bands, self), watch)
        else:
            _decode_jpeg(self, rgb)
            watch.reached(rgb.shape[0])


def open_image(data: bytes, *, max_px: int) -> EncodedImage:
    """What PNG, JPEG, TIFF or WebP bytes of at most `max_px` pixels say of themselves; nothing is decoded.

    Raises:
        RegionTooLargeError: more pixels than `max_px`, in the image or in one of the parts it is stored in.
        UndecodableImageError: not an image of these formats, or truncated.
    """
    stack = stack_in(data)
    header = (
        read_header(data)
        if stack is None
        else ImageHeader("image/tiff", stack.level_sizes[0], stack.bits, tile=stack.part_size)
    )
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
    if header.tile is not None and _stored_px(header.size, header.tile) > _MOST_PADDING * max_px:
        raise RegionTooLargeError(
            f"The TIFF image of {header.size.width} x {header.size.height} pixels is stored in tiles of "
            f"{header.tile.width} x {header.tile.height} that are mostly empty: save it with smaller tiles."
        )
    return EncodedImage(data, header, stack)


def decode_image(data: bytes, *, max_px: int) -> RegionImage:
    """`open_image` and `EncodedImage.decode` in one; raises what they raise, and refuses a stack of channels."""
    image = open_image(data, max_px=max_px).decode()
    if isinstance(image, StackImage):
        raise UndecodableImageError("The TIFF file is a stack of channels: save a picture in colour or grey.")
    return image


def _stored_px(size: Size, tile: Size) -> int:
    """Pixels of all tiles, those beyond the image's edge included."""
    return tile.area * -(-size.width // tile.width) * -(-size.height // tile.height)


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


def _refuse_damage(damage: str | None) -> None:
    if damage is not None:
        raise UndecodableImageError(
            f"The image is truncated or damaged: its data cannot be followed ({damage}); send it again."
        )


def _require_size(image: EncodedImage, width: int, height: int) -> None:
    """The decoder and the header must mean the same image."""
    if (width, height) != (image.header.size.width, image.header.size.height):
        raise UndecodableImageError(_DAMAGED)


def _decode_jpeg(image: EncodedImage, rgb: Rgb) -> None:
    upright = image.header.orientation == 1
    decoded, damage = jpeg.decode_whole(image.data, image.header.size, rgb if upright else None)
    _refuse_damage(damage)
    if decoded is None:
        assemble(rgb, image.header.size, image.header.orientation, partial(_pillow_jpeg_bands, image))
        return
    _require_size(image, decoded.shape[1], decoded.shape[0])
    if not upright:
        rgb[...] = turned(decoded, image.header.orientation)


def _pillow_jpeg_bands(encoded: EncodedImage) -> Iterator[Band]:
    """CMYK and rare subsamplings."""
    # Pillow's own guard against large images would refuse what the caller's limit, checked before, allows.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(encoded.data)) as image:
            image.load()
            _require_size(encoded, image.width, image.height)
            for top, bottom in row_bands(image.width, image.height):
                rows = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
                yield Band(slice(top, bottom), slice(None), rows)
    except _PILLOW_ERRORS as error:
        raise UndecodableImageError(_DAMAGED) from error


def _webp_bands(encoded: EncodedImage) -> Iterator[Band]:
    """The bands of an image that its decoder holds whole."""
    # Failures are raised to the caller and not printed.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        samples = cv2.imdecode(np.frombuffer(encoded.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UndecodableImageError(_DAMAGED) from error
    if samples is None or samples.dtype != np.uint8 or samples.ndim != 3:
        raise UndecodableImageError(_DAMAGED)
    _require_size(encoded, samples.shape[1], samples.shape[0])
    code = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
    for top, bottom in row_bands(samples.shape[1], samples.shape[0]):
        rows = np.asarray(cv2.cvtColor(samples[top:bottom], code), np.uint8)
        yield Band(slice(top, bottom), slice(None), rows)
