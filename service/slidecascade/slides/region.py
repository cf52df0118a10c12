"""A region of a source at any resolution, mirrored at its own edges.

What is promised: the value of a grid pixel depends on its place in the grid only, never on the box that was
asked for, bit for bit. So tiles agree wherever they overlap, and a region of a slide reads the same as the
same pixels uploaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import (
    InvalidRequestError,
    MissingResolutionError,
    RegionOutsideSlideError,
    RegionTooLargeError,
)
from slidecascade.geometry import Box, Grid, Mpp, Size
from slidecascade.slides.source import Rgb, Source, SourceFacts

NATIVE_TOLERANCE = 0.05
"""A level whose pixels differ from the wanted ones by at most this fraction is used as it is."""

MAX_ENLARGEMENT = 8.0
"""Most grid pixels along one source pixel: beyond, nothing but interpolation is left to look at."""

MAX_PIXELS_OF_ONE = 6
"""Most grid pixels for each level-0 pixel of a large region: a model for 40x reads a scan at 20x, and a bit."""

MAX_ENLARGED_PX = 2**26
"""A region enlarged to no more grid pixels than these is not large: 1024 x 1024 pixels, 8 times each way."""

_SUBPIXELS = 32
"""Steps a source pixel is divided into for interpolation: what OpenCV's fixed-point maps hold."""

_NO_SHIFT = 1e-6
"""Less than this part of a pixel is rounding, not a shift."""

MAX_PIECE_PX = 2**24
"""Most source pixels in memory for one piece of a read."""

_PIECE_SIDE = 2**14
"""Longest side of one piece: OpenCV's maps are 16 bits wide."""


def resolve_region(source: SourceFacts, requested: Box | None, *, max_px: int) -> Box:
    """The region to analyse, in level-0 pixels: `requested`, or all of `source`.

    Raises:
        InvalidRequestError: the region has no pixels.
        RegionOutsideSlideError: part of it is outside the source.
        RegionTooLargeError: more than `max_px` pixels.
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
    if region.area > max_px:
        raise RegionTooLargeError(
            f"The region has {region.width} x {region.height} pixels; at most {max_px} are taken at a time: "
            "choose a smaller `region`."
        )
    return region


def resolve_mpp(source: SourceFacts, requested: Mpp | None) -> Mpp:
    """The pixel size of level 0 in micrometres: `requested` if given, else the source's own.

    Raises:
        InvalidRequestError: `requested` is not a positive number.
        MissingResolutionError: neither is there.
    """
    if requested is not None:
        if not (math.isfinite(requested) and requested > 0):
            message = "`mpp` must be a positive number of micrometres per pixel."
            raise InvalidRequestError(message, errors=(("mpp", message),))
        return requested
    if source.mpp is None:
        raise MissingResolutionError(
            "The image does not state a usable pixel size: send `mpp`, the micrometres per level-0 pixel."
        )
    return source.mpp


@dataclass(frozen=True, slots=True)
class RegionFrame:
    """Where the pixels of `region_l0` of `source` are, whose level-0 pixels are `mpp_l0` micrometres wide."""

    source: SourceFacts
    region_l0: Box = field(kw_only=True)
    mpp_l0: Mpp = field(kw_only=True)

    def grid(self, mpp: Mpp) -> Grid:
        """The pixel grid for a model that reads at `mpp`.

        Where a level is within 5 % of `mpp`, its own pixels, from the one that holds the region's corner;
        otherwise pixels of exactly `mpp` from the region's corner on.

        Raises:
            InvalidRequestError: the source is more than 8 times coarser than `mpp`.
            RegionTooLargeError: the region is enlarged to more pixels than are worked on at a time.
        """
        ratio = mpp / self.mpp_l0
        if ratio * MAX_ENLARGEMENT < 1:
            message = (
                f"The image has {self.mpp_l0:g} micrometres per pixel, too coarse for a model that reads at "
                f"{mpp:g}: use a finer image, or correct `mpp` if it is wrong."
            )
            raise InvalidRequestError(message, errors=(("mpp", message),))
        grid = self._native(ratio) or self._resampled(ratio)
        limit_px = max(MAX_PIXELS_OF_ONE * self.region_l0.area, MAX_ENLARGED_PX)
        if grid.size.area > limit_px:
            raise RegionTooLargeError(
                f"The region of {self.region_l0.width} x {self.region_l0.height} pixels at {self.mpp_l0:g} "
                f"micrometres per pixel has {grid.size.width} x {grid.size.height} pixels for a model that reads "
                f"at {mpp:g}, at most {limit_px} are taken: choose a smaller `region`, or correct `mpp` if it is "
                "wrong."
            )
        return grid

    def overview_grid(self, max_side_px: int) -> Grid:
        """The pixels of the region's overview, for those who read it in pieces."""
        downsample = max(1.0, max(self.region_l0.width, self.region_l0.height) / max_side_px)
        # Never a level's own pixels: those may start before the region's corner.
        return self._resampled(downsample)

    def _native(self, ratio: float) -> Grid | None:
        """The pixels of the level that is close to `ratio`, if one is."""
        downsamples = self.source.level_downsamples
        level = min(range(len(downsamples)), key=lambda index: abs(ratio / downsamples[index] - 1))
        downsample = downsamples[level]
        if abs(ratio / downsample - 1) > NATIVE_TOLERANCE:
            return None
        bounds = self._bounds(level)
        return Grid(
            bounds.x * downsample, bounds.y * downsample, downsample, bounds.size, self.mpp_l0 * downsample
        )

    def _resampled(self, ratio: float) -> Grid:
        """Pixels of exactly `ratio` level-0 pixels from the region's corner on."""
        region = self.region_l0
        # Less a hair, so that 3 pixels at a ratio of 1.0000000001 are 3 pixels.
        size = Size(math.ceil(region.width / ratio - 1e-6), math.ceil(region.height / ratio - 1e-6))
        return Grid(float(region.x), float(region.y), ratio, size, self.mpp_l0 * ratio)

    def _bounds(self, level: int) -> Box:
        """The region in whole pixels of `level`, those cut by its edge included."""
        downsample, size = self.source.level_downsamples[level], self.source.level_sizes[level]
        x = min(math.floor(self.region_l0.x / downsample), size.width - 1)
        y = min(math.floor(self.region_l0.y / downsample), size.height - 1)
        right = max(x + 1, min(math.ceil(self.region_l0.right / downsample), size.width))
        bottom = max(y + 1, min(math.ceil(self.region_l0.bottom / downsample), size.height))
        return Box(x, y, right - x, bottom - y)

    def _level(self, grid: Grid) -> int:
        """The coarsest level that is no coarser than `grid`; level 0 where even that is."""
        fine_enough = [
            index
            for index, downsample in enumerate(self.source.level_downsamples)
            if downsample <= grid.downsample
        ]
        return max(fine_enough, key=lambda index: self.source.level_downsamples[index], default=0)


@dataclass(frozen=True, slots=True)
class RegionView(RegionFrame):
    """The pixels of a region."""

    source: Source

    def read(self, grid: Grid, box: Box) -> Rgb:
        """``(box.height, box.width, 3)`` uint8 RGB of `box` in pixels of `grid`, one of this view's grids.

        Outside `grid.extent` the region is mirrored about the centres of its outermost pixels (OpenCV's
        ``BORDER_REFLECT_101``); the slide beyond the region is never looked at. May be a read-only view.

        Raises:
            UnreadableSlideError: the slide's file is damaged.
        """
        columns = _Mirrored.plan(box.x, box.right, grid.size.width)
        rows = _Mirrored.plan(box.y, box.bottom, grid.size.height)
        inner = Box(columns.first, rows.first, columns.end - columns.first, rows.end - rows.first)
        pixels = self._read_inside(grid, inner)
        if inner == box:
            return pixels
        bordered = cv2.copyMakeBorder(
            pixels, rows.before, rows.after, columns.before, columns.after, cv2.BORDER_REFLECT_101
        )
        top, left = box.y - rows.first + rows.before, box.x - columns.first + columns.before
        cut: Rgb = bordered[top : top + box.height, left : left + box.width]
        return cut

    def unstored_share(self, grid: Grid, box: Box) -> float:
        """The part of `box`, in pixels of `grid` and inside its extent, for which the source stores no pixels.

        Raises:
            UnreadableSlideError: the slide's file is damaged.
        """
        level = self._level(grid)
        downsample, bounds = self.source.level_downsamples[level], self._bounds(level)
        corners = grid.l0_from_grid(np.array([[box.x, box.y], [box.right, box.bottom]])) / downsample
        (left, top), (right, bottom) = np.floor(corners[0] + _NO_SHIFT), np.ceil(corners[1] - _NO_SHIFT)
        x, y = int(left), int(top)
        return self.source.unstored_share(level, Box(x, y, int(right) - x, int(bottom) - y).clipped(bounds))

    def overview(self, max_side_px: int) -> tuple[Rgb, float]:
        """The whole region with no side longer than `max_side_px`, and its level-0 pixels per pixel."""
        grid = self.overview_grid(max_side_px)
        return self.read(grid, grid.extent), grid.downsample

    def _read_inside(self, grid: Grid, box: Box) -> Rgb:
        """`box` inside the grid's extent, in pieces of bounded memory: where they are cut changes nothing."""
        level = self._level(grid)
        scale = grid.downsample / self.source.level_downsamples[level]
        too_long = max(box.width, box.height) * max(1.0, scale) > _PIECE_SIDE
        if (too_long or box.area * scale**2 > MAX_PIECE_PX) and box.area > 1:
            return self._read_halves(grid, box)
        bounds = self._bounds(level)
        blocks = _Blocks(self.source, level, bounds, factor=max(1, math.floor(scale + 0.5)))
        corner = np.array([grid.origin_x_l0, grid.origin_y_l0]) / self.source.level_downsamples[level]
        shift_x, shift_y = corner - (bounds.x, bounds.y)
        on_blocks = scale == blocks.factor and max(abs(shift_x), abs(shift_y)) < _NO_SHIFT
        if on_blocks and Box(0, 0, blocks.size.width, blocks.size.height).encloses(box):
            return blocks.read(box)
        return blocks.interpolate(
            _subpixels(box.x, box.right, scale=scale, shift=shift_x, factor=blocks.factor),
            _subpixels(box.y, box.bottom, scale=scale, shift=shift_y, factor=blocks.factor),
        )

    def _read_halves(self, grid: Grid, box: Box) -> Rgb:
        if box.width >= box.height:
            middle = box.width // 2
            first = Box(box.x, box.y, middle, box.height)
            second, axis = Box(box.x + middle, box.y, box.width - middle, box.height), 1
        else:
            middle = box.height // 2
            first = Box(box.x, box.y, box.width, middle)
            second, axis = Box(box.x, box.y + middle, box.width, box.height - middle), 0
        halves = (self._read_inside(grid, first), self._read_inside(grid, second))
        return np.concatenate(halves, axis=axis)


def _subpixels(start: int, end: int, *, scale: float, shift: float, factor: int) -> NDArray[np.int64]:
    """Where the centres of the grid pixels `start` to `end` are, in 32nds of a block from the centre of block 0.

    Rounded from the global position, before anything local is subtracted: that is what makes tiles agree.
    """
    centres = ((np.arange(start, end) + 0.5) * scale + shift) / factor - 0.5
    return np.floor(centres * _SUBPIXELS + 0.5).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Mirrored:
    """Along one axis: the pixels `first` to `end` to read, and how many to mirror before and after them."""

    first: int
    end: int
    before: int
    after: int

    @classmethod
    def plan(cls, start: int, end: int, length: int) -> _Mirrored:
        """For the span `start` to `end` of an axis with pixels 0 to `length`."""
        before, after = max(0, -start), max(0, end - length)
        if before >= length or after >= length:  # mirrored more than once: all of the axis takes part
            return cls(0, length, before, after)
        first, last = max(start, 0), min(end, length)
        # The mirror image of k pixels outside are the k pixels next to the outermost one.
        first = min(first, length - 1 - after) if after else first
        last = max(last, before + 1) if before else last
        return cls(first, last, before, after)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """`bounds` of a level averaged over squares of `factor` pixels, counted from the corner of `bounds`.

    At the right and bottom edge incomplete squares are filled by repeating the last pixel.
    """

    source: Source
    level: int
    bounds: Box
    factor: int = field(kw_only=True)

    @property
    def size(self) -> Size:
        return Size(-(-self.bounds.width // self.factor), -(-self.bounds.height // self.factor))

    def read(self, box: Box) -> Rgb:
        """`box` in blocks, inside `size`: means rounded to nearest."""
        factor = self.factor
        wanted = Box(
            self.bounds.x + box.x * factor,
            self.bounds.y + box.y * factor,
            box.width * factor,
            box.height * factor,
        )
        there = wanted.clipped(self.bounds)
        pixels = self.source.read_level(self.level, there)
        missing = (wanted.bottom - there.bottom, wanted.right - there.right)
        if any(missing):
            pixels = np.asarray(
                cv2.copyMakeBorder(pixels, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE), np.uint8
            )
        if factor == 1:
            return pixels
        averaged: Rgb = cv2.resize(pixels, (box.width, box.height), interpolation=cv2.INTER_AREA)
        return averaged

    def interpolate(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> Rgb:
        """Bilinear between block centres; columns `x` and rows `y` in 32nds of a block, clamped at the edges."""
        x = np.clip(x, 0, (self.size.width - 1) * _SUBPIXELS)
        y = np.clip(y, 0, (self.size.height - 1) * _SUBPIXELS)
        left, top = int(x[0]) // _SUBPIXELS, int(y[0]) // _SUBPIXELS
        right = min(int(x[-1]) // _SUBPIXELS + 2, self.size.width)
        bottom = min(int(y[-1]) // _SUBPIXELS + 2, self.size.height)
        blocks = self.read(Box(left, top, right - left, bottom - top))
        whole_x, part_x = np.divmod(x - left * _SUBPIXELS, _SUBPIXELS)
        whole_y, part_y = np.divmod(y - top * _SUBPIXELS, _SUBPIXELS)
        # OpenCV's fixed-point form of a map: whole pixels, and an index into its table of 32 x 32 weights.
        whole = np.empty((len(y), len(x), 2), np.int16)
        whole[..., 0], whole[..., 1] = whole_x, whole_y[:, None]
        part = (part_y[:, None] * _SUBPIXELS + part_x).astype(np.uint16)
        sampled: Rgb = cv2.remap(blocks, whole, part, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return sampled
