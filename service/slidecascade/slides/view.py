"""A slide at any resolution, mirrored at its own edges.

What is promised: the value of a grid pixel depends on its place on the slide only, never on the box that was
asked for, bit for bit. So tiles agree wherever they overlap, and so do regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Box, Grid, Mpp, Size
from slidecascade.slides.channels import ChannelUse, scaled
from slidecascade.slides.source import Pyramid, Rgb, Source

NATIVE_TOLERANCE = 0.05
"""A level whose pixels differ from the wanted ones by at most this fraction is used as it is."""

MAX_ENLARGEMENT = 8.0
"""Most grid pixels along one source pixel: beyond, nothing but interpolation is left to look at."""

_SUBPIXELS = 32
"""Steps a source pixel is divided into for interpolation: what OpenCV's fixed-point maps hold."""

_NO_SHIFT = 1e-6
"""Less than this part of a pixel is rounding, not a shift."""

MAX_PIECE_PX = 2**24
"""Most source pixels in memory for one piece of a read."""

_PIECE_SIDE = 2**14
"""Longest side of one piece: OpenCV's maps are 16 bits wide."""


@dataclass(frozen=True, slots=True)
class SlideFrame:
    """Where the pixels of `source` are, whose level-0 pixels are `mpp_l0` micrometres wide."""

    source: Pyramid
    mpp_l0: Mpp = field(kw_only=True)

    @property
    def extent_l0(self) -> Box:
        """All of the slide, in level-0 pixels."""
        return Box(0, 0, self.source.size_l0.width, self.source.size_l0.height)

    def grid(self, mpp: Mpp) -> Grid:
        """The pixel grid of the whole slide for a model that reads at `mpp`; pixel (0, 0) lies at level-0 (0, 0).

        Where a level is within 5 % of `mpp`, its own pixels; otherwise pixels of exactly `mpp`.

        Raises:
            InvalidRequestError: the source is more than 8 times coarser than `mpp`.
        """
        ratio = mpp / self.mpp_l0
        if ratio * MAX_ENLARGEMENT < 1:
            message = (
                f"The image has {self.mpp_l0:g} micrometres per pixel, too coarse for a model that reads at "
                f"{mpp:g}: use a finer image, or correct `mpp` if it is wrong."
            )
            raise InvalidRequestError(message, errors=(("mpp", message),))
        return self._native(ratio) or self._resampled(self.extent_l0, ratio)

    def overview_grid(self, region_l0: Box, max_side_px: int) -> Grid:
        """The pixels of a region's overview, counted from its corner, for those who read them in pieces."""
        downsample = max(1.0, max(region_l0.width, region_l0.height) / max_side_px)
        # Never a level's own pixels: none of them need start at the region's corner.
        return self._resampled(region_l0, downsample)

    def _native(self, ratio: float) -> Grid | None:
        """The pixels of the level that is close to `ratio`, if one is."""
        downsamples = self.source.level_downsamples
        level = min(range(len(downsamples)), key=lambda index: abs(ratio / downsamples[index] - 1))
        downsample = downsamples[level]
        if abs(ratio / downsample - 1) > NATIVE_TOLERANCE:
            return None
        return Grid(0.0, 0.0, downsample, self.source.level_sizes[level], self.mpp_l0 * downsample)

    def _resampled(self, box_l0: Box, ratio: float) -> Grid:
        """Pixels of exactly `ratio` level-0 pixels over `box_l0`, from its corner on."""
        # Less a hair, so that 3 pixels at a ratio of 1.0000000001 are 3 pixels.
        size = Size(math.ceil(box_l0.width / ratio - 1e-6), math.ceil(box_l0.height / ratio - 1e-6))
        return Grid(float(box_l0.x), float(box_l0.y), ratio, size, self.mpp_l0 * ratio)

    def _level(self, grid: Grid) -> int:
        """The coarsest level that is no coarser than `grid`; level 0 where even that is."""
        fine_enough = [
            index
            for index, downsample in enumerate(self.source.level_downsamples)
            if downsample <= grid.downsample
        ]
        return max(fine_enough, key=lambda index: self.source.level_downsamples[index], default=0)


@dataclass(frozen=True, slots=True)
class SlideView(SlideFrame):
    """The pixels of a slide, or those of its `channels`, scaled by their intensities."""

    source: Source
    channels: tuple[ChannelUse, ...] = field(default=(), kw_only=True)

    def read(self, grid: Grid, box: Box) -> NDArray[Any]:
        """``(box.height, box.width, C)`` of `box` in pixels of `grid`, one of this view's grids: uint8 RGB, or
        uint16 of the full scale where there are `channels`.

        Outside `grid.extent` the slide is mirrored about the centres of its outermost pixels (OpenCV's
        ``BORDER_REFLECT_101``). May be a read-only view.

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
        ).reshape(rows.before + len(pixels) + rows.after, -1, pixels.shape[2])
        top, left = box.y - rows.first + rows.before, box.x - columns.first + columns.before
        cut: NDArray[Any] = bordered[top : top + box.height, left : left + box.width]
        return cut

    def unstored_share(self, grid: Grid, box: Box) -> float:
        """The part of `box`, in pixels of `grid` and inside its extent, for which the source stores no pixels.

        Raises:
            UnreadableSlideError: the slide's file is damaged.
        """
        level = self._level(grid)
        size = self.source.level_sizes[level]
        corners = grid.l0_from_grid(np.array([[box.x, box.y], [box.right, box.bottom]]))
        corners /= self.source.level_downsamples[level]
        (left, top), (right, bottom) = np.floor(corners[0] + _NO_SHIFT), np.ceil(corners[1] - _NO_SHIFT)
        x, y = int(left), int(top)
        asked = Box(x, y, int(right) - x, int(bottom) - y).clipped(Box(0, 0, size.width, size.height))
        return self.source.unstored_share(level, asked)

    def overview(self, region_l0: Box, max_side_px: int) -> tuple[Rgb, float]:
        """The whole region with no side longer than `max_side_px`, and its level-0 pixels per pixel."""
        grid = self.overview_grid(region_l0, max_side_px)
        return self.read(grid, grid.extent), grid.downsample

    def _read_inside(self, grid: Grid, box: Box) -> NDArray[Any]:
        """`box` inside the grid's extent, in pieces of bounded memory: where they are cut changes nothing."""
        level = self._level(grid)
        scale = grid.downsample / self.source.level_downsamples[level]
        too_long = max(box.width, box.height) * max(1.0, scale) > _PIECE_SIDE
        if (too_long or box.area * scale**2 > MAX_PIECE_PX) and box.area > 1:
            return self._read_halves(grid, box)
        blocks = _Blocks(self.source, level, self.channels, factor=max(1, math.floor(scale + 0.5)))
        shift_x, shift_y = np.array([grid.origin_x_l0, grid.origin_y_l0]) / self.source.level_downsamples[level]
        start_x, start_y = round(shift_x / blocks.factor), round(shift_y / blocks.factor)
        off_blocks = max(abs(shift_x - start_x * blocks.factor), abs(shift_y - start_y * blocks.factor))
        moved = box.shifted(start_x, start_y)
        if scale == blocks.factor and off_blocks < _NO_SHIFT and blocks.extent.encloses(moved):
            return blocks.read(moved)
        return blocks.interpolate(
            _subpixels(box.x, box.right, scale=scale, shift=shift_x, factor=blocks.factor),
            _subpixels(box.y, box.bottom, scale=scale, shift=shift_y, factor=blocks.factor),
        )

    def _read_halves(self, grid: Grid, box: Box) -> NDArray[Any]:
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
    """A level averaged over squares of `factor` pixels, counted from its corner.

    At the right and bottom edge incomplete squares are filled by repeating the last pixel.
    """

    source: Source
    level: int
    channels: tuple[ChannelUse, ...]
    factor: int = field(kw_only=True)

    @property
    def size(self) -> Size:
        level = self.source.level_sizes[self.level]
        return Size(-(-level.width // self.factor), -(-level.height // self.factor))

    @property
    def extent(self) -> Box:
        return Box(0, 0, self.size.width, self.size.height)

    def read(self, box: Box) -> NDArray[Any]:
        """`box` in blocks, inside `extent`: means rounded to nearest."""
        factor = self.factor
        wanted = Box(box.x * factor, box.y * factor, box.width * factor, box.height * factor)
        level = self.source.level_sizes[self.level]
        there = wanted.clipped(Box(0, 0, level.width, level.height))
        pixels = self._pixels(there)
        missing = (wanted.bottom - there.bottom, wanted.right - there.right)
        if any(missing):
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        if factor == 1:
            return pixels
        averaged = cv2.resize(pixels, (box.width, box.height), interpolation=cv2.INTER_AREA)
        shaped: NDArray[Any] = averaged.reshape(box.height, box.width, -1)
        return shaped

    def _pixels(self, box: Box) -> NDArray[Any]:
        if not self.channels:
            return self.source.read_level(self.level, box)
        counts = self.source.read_channels(self.level, box, [use.index for use in self.channels])
        return scaled(counts, [use.intensity for use in self.channels])

    def interpolate(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[Any]:
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
        sampled = cv2.remap(blocks, whole, part, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        shaped: NDArray[Any] = sampled.reshape(len(y), len(x), -1)
        return shaped
