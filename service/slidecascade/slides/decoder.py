"""Where the pixels of an upload are decoded: in this process, or in one that may do nothing else."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Size
from slidecascade.slides.canvas import UNWATCHED, Watch
from slidecascade.slides.channels import Samples
from slidecascade.slides.frame import decode_frame
from slidecascade.slides.maskpng import decode_mask
from slidecascade.slides.source import Rgb
from slidecascade.slides.stack import decode_strip
from slidecascade.slides.upload import EncodedImage


class Decoder(Protocol):
    """Decodes images, several at a time."""

    @property
    def upload_copies(self) -> int:
        """How many more copies of the encoded bytes exist while it decodes."""
        ...

    def pixels(self, image: EncodedImage, watch: Watch = UNWATCHED) -> Rgb:
        """``(H, W, 3)`` uint8 of an image that is no stack, not to be written to; `watch` learns of its rows.

        Raises:
            UndecodableImageError: they are damaged, incomplete, stored in a variant that is not read here, or the
                process that decoded them ended.
            NotReadyError: there is no process to decode in.
        """
        ...

    def mask(self, image: EncodedImage, watch: Watch = UNWATCHED) -> NDArray[np.uint16]:
        """The numbers of a PNG, see `slidecascade.slides.maskpng.decode_mask`; raises as `pixels`."""
        ...

    def strip(self, data: bytes, size: Size, dtype: str) -> Samples:
        """A strip of a stack, see `slidecascade.slides.stack.StripDecoder`; raises as `pixels`."""
        ...

    def frame(self, data: bytes, size: Size) -> Rgb:
        """A compressed frame of a slide, see `slidecascade.slides.frame.decode_frame`; raises as `pixels`."""
        ...

    def close(self) -> None:
        """Decode nothing more."""
        ...


class DirectDecoder:
    """Decodes in the thread of the caller: for files that the operator gives to commands."""

    upload_copies = 0

    def pixels(self, image: EncodedImage, watch: Watch = UNWATCHED) -> Rgb:
        """See `Decoder`."""
        return image.decode_watched(watch)

    def mask(self, image: EncodedImage, watch: Watch = UNWATCHED) -> NDArray[np.uint16]:  # noqa: ARG002
        """See `Decoder`."""
        return decode_mask(image.data, image.header.size)

    def strip(self, data: bytes, size: Size, dtype: str) -> Samples:
        """See `Decoder`."""
        return decode_strip(data, size, dtype)

    def frame(self, data: bytes, size: Size) -> Rgb:
        """See `Decoder`."""
        return decode_frame(data, size)

    def close(self) -> None:
        """See `Decoder`."""


DIRECT: Final = DirectDecoder()
