"""Which region is analysed: defaults, limits, and the size of its pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from slidecascade.errors import (
    InvalidRequestError,
    MissingResolutionError,
    RegionOutsideSlideError,
    RegionTooLargeError,
)
from slidecascade.geometry import Box, Size
from slidecascade.slides.region import require_workable, resolve_mpp, resolve_region
from slidecascade.slides.source import Source
from slidecascade.slides.upload import RegionImage
from slidecascade.slides.view import SlideView

SILENT = RegionImage(np.zeros((190, 333, 3), np.uint8))


class Stated(RegionImage):
    """An image that states its pixel size."""

    @property
    def mpp(self) -> float:
        return 0.25

    def unstored_share(self, level: int, box: Box) -> float:
        """Black pixels stand for those that are not stored."""
        return float((self.read_level(level, box) == 0).all(axis=2).mean())


STATED = Stated(SILENT.pixels)


def white(width: int, height: int) -> Source:
    return RegionImage(np.broadcast_to(np.uint8(255), (height, width, 3)))


def test_a_region_enlarged_beyond_measure_is_refused() -> None:
    """4 million pixels stated as 4 um/px would be 268 million for a model at 0.5 um/px."""
    grid = SlideView(white(5000, 5000), mpp_l0=4.0).grid(0.5)

    with pytest.raises(RegionTooLargeError, match=r"16384 x 16384 pixels .* at 0\.5 .*at most"):
        require_workable(Box(100, 200, 2048, 2048), grid)
    require_workable(Box(100, 200, 1024, 1024), grid)
    assert grid.box_from_l0(Box(100, 200, 1024, 1024)).size == Size(8192, 8192)


def test_a_large_scan_at_20x_is_read_by_a_model_for_40x() -> None:
    """The limit leaves the largest regions of the other common magnification alone."""
    grid = SlideView(white(10_000, 10_000), mpp_l0=0.55).grid(0.25)

    require_workable(Box(0, 0, 10_000, 10_000), grid)
    assert grid.size == Size(22_000, 22_000)


def test_the_region_defaults_to_everything() -> None:
    """Without a region all of the source is analysed; a region inside it is taken as it is."""
    assert resolve_region(STATED, None, max_px=10**6) == Box(0, 0, 333, 190)
    assert resolve_region(STATED, Box(1, 2, 3, 4), max_px=12) == Box(1, 2, 3, 4)


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 334, 10), (330, 185, 4, 4), (900, 900, 10, 10)])
def test_a_region_must_be_inside(box: tuple[int, int, int, int]) -> None:
    """Partly and wholly outside are refused alike, with the size of the source."""
    with pytest.raises(RegionOutsideSlideError, match="333 x 190"):
        resolve_region(STATED, Box(*box), max_px=10**6)


def test_a_region_has_a_limit_and_a_least_size() -> None:
    """Too many pixels and none at all are named errors; a region outside is reported before its size."""
    with pytest.raises(RegionTooLargeError, match="333 x 190 pixels; at most 1000"):
        resolve_region(STATED, None, max_px=1000)
    for box in (Box(0, 0, 0, 5), Box(5, 5, 5, -1)):
        with pytest.raises(InvalidRequestError, match="at least 1 pixel"):
            resolve_region(STATED, box, max_px=1000)
    with pytest.raises(RegionOutsideSlideError):
        resolve_region(STATED, Box(0, 0, 9999, 9999), max_px=1000)


def test_the_request_overrides_the_mpp_of_the_source() -> None:
    """What the caller states wins over what the file states; one of them must."""
    assert resolve_mpp(STATED, None) == 0.25
    assert resolve_mpp(STATED, 0.5) == 0.5
    assert resolve_mpp(SILENT, 0.5) == 0.5
    with pytest.raises(MissingResolutionError, match="send `mpp`"):
        resolve_mpp(SILENT, None)


@pytest.mark.parametrize("mpp", [0.0, -0.5, math.nan, math.inf])
def test_an_mpp_must_be_a_positive_number(mpp: Any) -> None:
    """Zero, negative, NaN and infinite pixel sizes are refused, not computed with."""
    with pytest.raises(InvalidRequestError, match="positive"):
        resolve_mpp(STATED, mpp)
