"""A stack of channels as a source of pixels: an upload, or a file below the slide folders."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from slidecascade.errors import UndecodableImageError, UnreadableSlideError
from slidecascade.geometry import Box, Mpp, Size
from slidecascade.slides import content
from slidecascade.slides.channels import Intensity, Samples, composite, measure
from slidecascade.slides.doubts import Stated
from slidecascade.slides.facts import DENSE_SAMPLES, sample_boxes
from slidecascade.slides.shortage import is_gone, not_ready
from slidecascade.slides.slideinfo import SlideInfo, mpp_of
from slidecascade.slides.source import Rgb
from slidecascade.slides.stack import StripDecoder, TiffStack, decode_strip, has_stack, read_stack
from slidecascade.slides.storedparts import OpenFile


class StackImage:
    """The channels of a TIFF stack; read by tiles, from several threads at a time."""

    def __init__(self, stack: TiffStack, content_id: str, *, mpp: Mpp | None = None) -> None:
        self.stack = stack
        self._content_id = content_id
        self._mpp = mpp
        self._intensities: tuple[Intensity, ...] | None = None
        self._lock = threading.Lock()

    @property
    def size_l0(self) -> Size:
        return self.stack.level_sizes[0]

    @property
    def mpp(self) -> Mpp | None:
        return self._mpp

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return self.stack.level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return tuple(self.size_l0.width / size.width for size in self.level_sizes)

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]:
        return "image-pixels"

    @property
    def bounds_l0(self) -> Box | None:
        return None

    @property
    def stated(self) -> Stated:
        return Stated()

    @property
    def channels(self) -> tuple[str, ...]:
        return self.stack.names

    @property
    def content_id(self) -> str:
        return self._content_id

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Samples:
        """``(H, W, C)`` counts; raises UnreadableSlideError where the file is damaged."""
        try:
            return self.stack.read(level, box, indices)
        except UndecodableImageError as error:
            raise UnreadableSlideError(error.detail) from error

    def read_level(self, level: int, box: Box) -> Rgb:
        """A picture of all channels, each in a colour of its own."""
        everything = self.read_channels(level, box, range(len(self.channels)))
        return composite(everything, self.intensities)

    def unstored_share(self, level: int, box: Box) -> float:  # noqa: ARG002 - of `Source`
        return 0.0

    @property
    def intensities(self) -> tuple[Intensity, ...]:
        """What is known of each channel, of a fixed sample of the slide.

        Raises:
            UnreadableSlideError: the file is damaged there.
        """
        with self._lock:
            if self._intensities is None:
                boxes = sample_boxes(self.size_l0, count=DENSE_SAMPLES)
                samples = [self.read_channels(0, box, range(len(self.channels))) for box in boxes]
                self._intensities = measure(self.channels, samples)
            return self._intensities


class StackSlide(StackImage):
    """A stack in a file. Opened as `slidecascade.slides.slide.Slide` is, and closed by `close`."""

    def __init__(self, file: OpenFile, path: Path, stack: TiffStack) -> None:
        super().__init__(stack, "", mpp=mpp_of(stack.sides_um))
        self._file, self._path = file, path

    @classmethod
    def open(cls, path: Path, decode: StripDecoder = decode_strip) -> Self | None:
        """The stack at `path`, whose strips and tiles `decode` decodes; None where the file is no stack.

        Raises:
            UnreadableSlideError: a stack that is not read; the message says why.
            OSError: there is no file.
        """
        file = OpenFile(path)
        stack = None
        try:
            if has_stack(file):
                stack = replace(read_stack(file), decode_strip=decode)
        except UndecodableImageError as error:
            file.close()
            raise UnreadableSlideError(error.detail) from error
        except (struct.error, OverflowError):
            stack = None  # OpenSlide says what is damaged
        if stack is None:
            file.close()
            return None
        return cls(file, path, stack)

    @property
    def info(self) -> SlideInfo:
        return SlideInfo(
            size_l0=self.size_l0,
            mpp=self.mpp,
            objective_power=None,
            vendor=None,
            level_sizes=self.level_sizes,
            level_downsamples=self.level_downsamples,
            sides_um=self.stack.sides_um,
            channels=self.channels,
        )

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]:
        return "level0-pixels"

    @property
    def stated(self) -> Stated:
        return Stated(self.stack.sides_um)

    @property
    def content_id(self) -> str:
        """See `slidecascade.slides.content`; raises UnreadableSlideError where the file cannot be read."""
        if not self._content_id:
            try:
                self._content_id = content.id_of_files([self._path])
            except OSError as error:
                if not is_gone(error):
                    raise not_ready(error) from error
                raise UnreadableSlideError(
                    "The slide opens but its file cannot be read: check the permissions or copy it again."
                ) from error
        return self._content_id

    @property
    def failed(self) -> bool:
        """False: a read that fails leaves the file as it is."""
        return False

    def close(self) -> None:
        """Release the file. No thread may be reading, and none may read afterwards."""
        self._file.close()


def may_be_stack(path: Path) -> bool:
    """Whether a file of this name is opened to see if it is a stack."""
    return path.suffix.lower() in (".tif", ".tiff", ".btf")


def is_stack(path: Path) -> bool:
    """Whether the file at `path` is a stack that can be read."""
    if not may_be_stack(path):
        return False
    try:
        stack = StackSlide.open(path)
    except (UnreadableSlideError, OSError):
        return False
    if stack is not None:
        stack.close()
    return stack is not None
