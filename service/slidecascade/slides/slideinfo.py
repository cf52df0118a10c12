"""What a slide states of itself, whatever reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slidecascade.geometry import Box, Mpp, Size
from slidecascade.slides.channels import RGB
from slidecascade.slides.doubts import MAX_ANISOTROPY, Stated

MIN_MPP, MAX_MPP = 0.01, 50.0
"""No scanner's level 0 is finer or coarser, in micrometres; the resolutions of print (72 to 300 dpi) are."""

_ROUNDING = 1.02
"""Most by which a level's two downsamples may differ, besides a pixel of each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideInfo:
    """The reported properties of a slide; never label, macro image, barcode or free text."""

    size_l0: Size
    mpp: Mpp | None
    objective_power: float | None
    vendor: str | None
    level_sizes: tuple[Size, ...]
    level_downsamples: tuple[float, ...]
    bounds_l0: Box | None = None
    sides_um: tuple[float, float] | None = None
    channels: tuple[str, ...] = RGB


class InfoSlide:
    """The part of a `Pyramid` that follows from `info`."""

    def __init__(self, info: SlideInfo) -> None:
        self._info = info

    @property
    def info(self) -> SlideInfo:
        return self._info

    @property
    def size_l0(self) -> Size:
        return self._info.size_l0

    @property
    def mpp(self) -> Mpp | None:
        """Mean of the pixel's two sides; None when one is missing, absurd, or 5 % longer than the other."""
        return self._info.mpp

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return self._info.level_downsamples

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return self._info.level_sizes

    @property
    def coordinate_space(self) -> Literal["level0-pixels", "image-pixels"]:
        return "level0-pixels"

    @property
    def bounds_l0(self) -> Box | None:
        return self._info.bounds_l0

    @property
    def stated(self) -> Stated:
        return Stated(self._info.sides_um, self._info.objective_power)

    @property
    def channels(self) -> tuple[str, ...]:
        return self._info.channels


def undistorted(sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Indices of the levels that show level 0 with its proportions; others belong to no pyramid."""
    width_l0, height_l0 = sizes[0]

    def is_alike(width: int, height: int) -> bool:
        return width_l0 / (width + 1) <= _ROUNDING * height_l0 / max(height - 1, 0.5) and height_l0 / (
            height + 1
        ) <= _ROUNDING * width_l0 / max(width - 1, 0.5)

    return tuple(index for index, size in enumerate(sizes) if is_alike(*size))


def mpp_of(sides_um: tuple[float, float] | None) -> Mpp | None:
    """The mean of a pixel's sides; None when they are absurd, or one is 5 % longer than the other."""
    if sides_um is None:
        return None
    x, y = sides_um
    if not MIN_MPP <= x <= MAX_MPP or max(x, y) > MAX_ANISOTROPY * min(x, y):
        return None
    return (x + y) / 2
