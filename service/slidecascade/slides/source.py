"""What a region of pixels can be read from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box, Mpp, Size
from slidecascade.slides.channels import Samples
from slidecascade.slides.doubts import Stated

Rgb = NDArray[np.uint8]
"""``(H, W, 3)`` uint8, red first."""


class Pyramid(Protocol):
    """What a slide or an uploaded image states: at least one level, level 0 the finest. No pixel is needed for it.

    `mpp` is the pixel size of level 0, or None when the source does not state one that can be trusted.
    `level_downsamples` starts with 1.0 and grows; both level tuples have one entry for each level. `content_id`
    is the same for the same bytes under any name; it raises UnreadableSlideError where they cannot be read.
    `channels` names the channels, ``red``, ``green``, ``blue`` of an image in colour or grey.
    `bounds_l0` is the part of level 0 the scanner filled, where the file states one; `stated` is the rest of it.
    """

    @property
    def size_l0(self) -> Size: ...

    @property
    def mpp(self) -> Mpp | None: ...

    @property
    def level_downsamples(self) -> tuple[float, ...]: ...

    @property
    def level_sizes(self) -> tuple[Size, ...]: ...

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]: ...

    @property
    def content_id(self) -> str: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def bounds_l0(self) -> Box | None: ...

    @property
    def stated(self) -> Stated: ...


class Pictured(Protocol):
    """What pictures of a slide are made of: its levels, what it is, and their pixels."""

    @property
    def size_l0(self) -> Size: ...

    @property
    def level_downsamples(self) -> tuple[float, ...]: ...

    @property
    def level_sizes(self) -> tuple[Size, ...]: ...

    @property
    def content_id(self) -> str: ...

    def read_level(self, level: int, box: Box) -> Rgb:
        """See `Source`."""
        ...


class Source(Pyramid, Protocol):
    """One whose pixels can be read."""

    def read_level(self, level: int, box: Box) -> Rgb:
        """The pixels of `box`, given in pixels of `level` and inside it; may be a read-only view.

        A pixel's value depends on its place in the level only, never on `box`.

        Raises:
            UnreadableSlideError: the file is damaged.
        """
        ...

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Samples:
        """``(H, W, C)`` counts, uint8 or uint16, of the channels at `indices`; as `read_level` otherwise."""
        ...

    def unstored_share(self, level: int, box: Box) -> float:
        """The part, 0 to 1, of the pixels of `box` that no scanner or program stored; they are read as white.

        Raises:
            UnreadableSlideError: the file is damaged.
        """
        ...


class OpenSource(Protocol):
    """Opens the pixels of a slide or an image for a while."""

    def __call__(self, *, private: bool = False) -> AbstractContextManager[Source]:
        """The source; a `private` one shares no handle, so that no other reader's fault can break it."""
        ...
