"""The upload of one region on its way to pixels, and the memory for that."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, DeadlineExceededError, SlideCascadeError
from slidecascade.memory import Share
from slidecascade.slides.arriving import ArrivingImage
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.slides.stackimage import StackImage
from slidecascade.slides.upload import EncodedImage


def decoding_bytes(image: EncodedImage, decoder: Decoder) -> int:
    """Most memory that an upload takes while it is decoded, its own bytes included."""
    return (1 + decoder.upload_copies) * len(image.data) + image.peak_bytes


class Uploading:
    """Starts decoding an upload, whose first tiles are analysed meanwhile.

    At the end of the context decoding has ended, too: without an error only where the upload is whole. Damage
    comes before any error of a tile; after a cancellation nothing more is decoded.

    Args:
        share: memory for decoding is reserved in it, and given back when decoding has ended.
        decoder: where the pixels are decoded.
    """

    def __init__(self, share: Share, control: Control, decoder: Decoder = DIRECT) -> None:
        self._share, self._control, self._decoder = share, control, decoder
        self._image: ArrivingImage | None = None
        self._least_bytes = 0
        self._surplus = False

    def begin(self, encoded: EncodedImage, kept_bytes: int) -> ArrivingImage | StackImage:
        """Begin to decode, once there is memory for it, of which `kept_bytes` are kept.

        A stack of channels is decoded by the tile, where other images are.
        """
        self._share.reserve(max(kept_bytes, decoding_bytes(encoded, self._decoder)), self._control)
        if encoded.stack is not None:
            return StackImage(replace(encoded.stack, decode_strip=self._decoder.strip), encoded.content_id)
        self._image, self._least_bytes, self._surplus = ArrivingImage(encoded, self._decoder), kept_bytes, True
        return self._image

    def hold(self, size: int) -> None:
        """Hold `size` bytes at least; raises what `Share.require` does."""
        self._least_bytes = max(self._least_bytes, size)
        if self._image is not None and self._image.is_whole:
            self._give_back()
        self._share.require(size)

    def _give_back(self) -> None:
        if self._surplus:
            self._surplus = False
            self._share.shrink(self._least_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._image is None:
            return
        is_judged = error is None or isinstance(error, SlideCascadeError)
        if not is_judged or isinstance(error, CancelledError | DeadlineExceededError):
            self._image.abandon()
            return
        self._image.finish()
        self._give_back()
