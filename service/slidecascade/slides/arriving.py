"""An upload whose upper rows can be read while those below are still decoded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Box, Size
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.slides.source import Rgb
from slidecascade.slides.upload import EncodedImage, OneLevel


class _NotWantedError(Exception):
    """Ends decoding of an image that is no longer needed."""


class ArrivingImage(OneLevel):
    """A `Source` of the pixels of `encoded`, which a thread of its own has `decoder` decode from now on.

    A read waits for the last of its rows. Nothing that was made of the pixels may be answered before `finish`
    has returned: damage may be found in the last bytes of a file.
    """

    def __init__(self, encoded: EncodedImage, decoder: Decoder = DIRECT) -> None:
        self._encoded, self._decoder = encoded, decoder
        self._changed = threading.Condition()
        self._pixels: Rgb | None = None
        self._rows = 0
        self._has_ended = self._is_wanted = False
        self._damage: str | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._decode, name="decode", daemon=True)
        self._is_wanted = True
        self._thread.start()
        self._content_id = encoded.content_id  # on this thread, while the other one decodes

    @property
    def content_id(self) -> str:
        """See `slidecascade.slides.content`."""
        return self._content_id

    @property
    def size_l0(self) -> Size:
        return self._encoded.size_l0

    @property
    def is_whole(self) -> bool:
        """Whether decoding has ended."""
        return self._has_ended

    def read_level(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, a read-only view, as soon as they are decoded; `level` is 0.

        Raises:
            UndecodableImageError: the image is damaged.
        """
        if level != 0:
            raise ValueError(f"An image has no level {level}.")
        self.wait_for(box.bottom)
        pixels = self._pixels
        if pixels is None:
            raise ValueError("The image is not wanted any more.")
        view = pixels[box.y : box.bottom, box.x : box.right]
        view.flags.writeable = False
        return view

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Rgb:
        """Those colours of `read_level`."""
        return self.read_level(level, box)[..., list(indices)]

    def unstored_share(self, level: int, box: Box) -> float:  # noqa: ARG002 - of `Source`
        """0: a decoded image has all its pixels."""
        return 0.0

    def wait_for(self, rows: int) -> None:
        """Wait until the first `rows` rows are decoded.

        Raises:
            UndecodableImageError: the image is damaged.
        """
        wanted = min(rows, self.size_l0.height)
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._rows >= wanted)
        self._refuse_damage()

    def finish(self) -> None:
        """Wait until all of the image is decoded, and found to be whole.

        Raises:
            UndecodableImageError: the image is damaged.
        """
        self._thread.join()
        self._refuse_damage()

    def abandon(self) -> None:
        """End decoding soon, and wait for that."""
        self._is_wanted = False
        self._thread.join()

    def begun(self, rgb: Rgb) -> None:
        """See `slidecascade.slides.canvas.Watch`."""
        self._pixels = rgb

    def reached(self, rows: int) -> None:
        """See `slidecascade.slides.canvas.Watch`."""
        if not self._is_wanted:
            raise _NotWantedError
        if rows > self._rows:
            with self._changed:
                self._rows = rows
                self._changed.notify_all()

    def _refuse_damage(self) -> None:
        # A new error each time: one that was kept would keep the stacks of all that it was raised in.
        if self._damage is not None:
            raise UndecodableImageError(self._damage)
        if self._fault is not None:
            raise self._fault

    def _decode(self) -> None:
        """The worker boundary of decoding."""
        try:
            with suppress(_NotWantedError):
                self._pixels = self._decoder.pixels(self._encoded, self)
        except UndecodableImageError as error:
            self._damage = error.detail
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
            self._fault = error.with_traceback(None)
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
