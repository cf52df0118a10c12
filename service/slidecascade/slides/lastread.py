"""A source that is read once where the networks of a tile ask for the same pixels.

The segmenter reads a tile with its halo; the crops of its classifiers lie inside. Where OpenSlide reads, half of
the time is its composition of stored tiles, which a cache of decoded ones does not save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from slidecascade.geometry import Box, Mpp, Size
from slidecascade.slides.channels import Samples
from slidecascade.slides.doubts import Stated
from slidecascade.slides.source import Rgb, Source


class LastRead:
    """The pixels of `source` for one thread; boxes inside the largest one that was read are cut out of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._level = 0
        self._box = Box(0, 0, 0, 0)
        self._pixels: Rgb | None = None

    @property
    def size_l0(self) -> Size:
        return self._source.size_l0

    @property
    def mpp(self) -> Mpp | None:
        return self._source.mpp

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return self._source.level_downsamples

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return self._source.level_sizes

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]:
        return self._source.coordinate_space

    @property
    def content_id(self) -> str:
        return self._source.content_id

    @property
    def channels(self) -> tuple[str, ...]:
        return self._source.channels

    @property
    def bounds_l0(self) -> Box | None:
        return self._source.bounds_l0

    @property
    def stated(self) -> Stated:
        return self._source.stated

    def read_level(self, level: int, box: Box) -> Rgb:
        """See `Source`."""
        if self._pixels is not None and level == self._level and self._box.encloses(box):
            part = box.shifted(-self._box.x, -self._box.y)
            view = self._pixels[part.y : part.bottom, part.x : part.right]
            view.flags.writeable = False
            return view
        pixels = self._source.read_level(level, box)
        if box.area >= self._box.area:
            self._level, self._box, self._pixels = level, box, pixels
        return pixels

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Samples:
        """See `Source`; nothing is kept."""
        return self._source.read_channels(level, box, indices)

    def unstored_share(self, level: int, box: Box) -> float:
        """See `Source`."""
        return self._source.unstored_share(level, box)
