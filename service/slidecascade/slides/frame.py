"""Frames of DICOM slides, as servers send them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.slides import jpeg
from slidecascade.slides.source import Rgb

FrameDecoder: TypeAlias = Callable[[bytes, Size], Rgb]
"""As `decode_frame`, of compressed frames."""

_JPEG: Final = b"\xff\xd8"
_JPEG_2000: Final = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


def pixels_of(data: bytes, size: Size, decode: FrameDecoder) -> Rgb:
    """The pixels of a frame of `size`: by `decode` where it is compressed, else as they are stored.

    Raises:
        UndecodableImageError: damaged, of another size, or compressed in another way than JPEG and JPEG 2000.
    """
    may_be_stored = size.area * 3 <= len(data) <= size.area * 3 + 1  # frames are padded to an even length
    if data.startswith((_JPEG, *_JPEG_2000)):
        try:
            return decode(data, size)
        except UndecodableImageError:
            if not may_be_stored:
                raise  # else its first pixel has the values that compressed frames begin with
    if may_be_stored:
        return np.frombuffer(data, np.uint8, count=size.area * 3).reshape(size.height, size.width, 3)
    raise UndecodableImageError("a compression that is not supported")


def decode_frame(data: bytes, size: Size) -> Rgb:
    """The pixels of a frame in JPEG or JPEG 2000; raises UndecodableImageError."""
    if data.startswith(_JPEG):
        pixels, damage = jpeg.decode_whole(data, size, None)
        if pixels is None:
            raise UndecodableImageError(damage or "an unusual JPEG")
    else:
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as image:
                if image.size != (size.width, size.height):
                    raise UndecodableImageError("a frame of another size")
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, UnidentifiedImageError, SyntaxError) as error:
            raise UndecodableImageError("damaged JPEG 2000") from error
    if pixels.shape != (size.height, size.width, 3):
        raise UndecodableImageError("a frame of another size")
    return pixels
