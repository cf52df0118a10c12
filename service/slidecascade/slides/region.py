"""Which region of a source is analysed, and how large its pixels are."""

from __future__ import annotations

import math

from slidecascade.errors import (
    ImplausibleResolutionError,
    InvalidRequestError,
    MissingResolutionError,
    RegionOutsideSlideError,
    RegionTooLargeError,
)
from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.slides.doubts import MIN_MPP
from slidecascade.slides.source import Pyramid

MAX_PIXELS_OF_ONE = 6
"""Most grid pixels for each level-0 pixel of a large region: a model for 40x reads a scan at 20x, and a bit."""

MAX_ENLARGED_PX = 2**26
"""A region enlarged to no more grid pixels than these is not large: 1024 x 1024 pixels, 8 times each way."""


def resolve_region(source: Pyramid, requested: Box | None, *, max_px: int | None) -> Box:
    """The region to analyse, in level-0 pixels: `requested`, or all of `source`.

    Raises:
        InvalidRequestError: the region has no pixels.
        RegionOutsideSlideError: part of it is outside the source.
        RegionTooLargeError: more than `max_px` pixels; None: any number will do.
    """
    size = source.size_l0
    region = Box(0, 0, size.width, size.height) if requested is None else requested
    if region.width < 1 or region.height < 1:
        message = "A region needs a width and a height of at least 1 pixel."
        raise InvalidRequestError(message, errors=(("region", message),))
    if not Box(0, 0, size.width, size.height).encloses(region):
        raise RegionOutsideSlideError(
            f"The region {region.width} x {region.height} at ({region.x}, {region.y}) is not inside the image "
            f"of {size.width} x {size.height} level-0 pixels: choose one that is."
        )
    if max_px is not None and region.area > max_px:
        raise RegionTooLargeError(
            f"The region has {region.width} x {region.height} pixels; at most {max_px} are taken at a time: "
            "choose a smaller `region`."
        )
    return region


def resolve_mpp(source: Pyramid, requested: Mpp | None) -> Mpp:
    """The pixel size of level 0 in micrometres: `requested` if given, else the source's own.

    Raises:
        InvalidRequestError: `requested` is not a positive number.
        MissingResolutionError: neither is there.
        ImplausibleResolutionError: no microscope makes it.
    """
    mpp = _stated_mpp(source, requested)
    if mpp < MIN_MPP:
        whose = "`mpp`" if requested is not None else "The pixel size that the slide states"
        raise ImplausibleResolutionError(
            f"{whose}, {mpp:g} um, is finer than any microscope makes it (from {MIN_MPP:g} um on): it may be ten "
            "times too small; find out the right one and send it as `mpp`."
        )
    return mpp


def _stated_mpp(source: Pyramid, requested: Mpp | None) -> Mpp:
    if requested is not None:
        if not (math.isfinite(requested) and requested > 0):
            message = "`mpp` must be a positive number of micrometres per pixel."
            raise InvalidRequestError(message, errors=(("mpp", message),))
        return requested
    if source.mpp is None:
        raise MissingResolutionError(
            "The image does not state a usable pixel size: send `mpp`, the micrometres per level-0 pixel; where "
            "nobody knows it, pipelines of cells take `object_diameter_px`, the usual diameter of the objects."
        )
    return source.mpp


def require_workable(region_l0: Box, grid: Grid) -> None:
    """Reject a region that a model's `grid` enlarges to more pixels than the limit.

    Raises:
        RegionTooLargeError: it has.
    """
    box = grid.box_from_l0(region_l0)
    limit_px = max(MAX_PIXELS_OF_ONE * region_l0.area, MAX_ENLARGED_PX)
    if box.area > limit_px:
        raise RegionTooLargeError(
            f"The region of {region_l0.width} x {region_l0.height} pixels has {box.width} x {box.height} pixels "
            f"for a model that reads at {grid.mpp:g} micrometres per pixel, at most {limit_px} are taken: choose "
            "a smaller `region`, or correct `mpp` if it is wrong."
        )
