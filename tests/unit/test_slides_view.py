"""Slides at any resolution: the same pixel from every box, the right pixel for every place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Box, Grid, Size
from slidecascade.slides import view as view_module
from slidecascade.slides.doubts import Stated
from slidecascade.slides.source import Rgb
from slidecascade.slides.view import SlideView

MPP_L0 = 0.25
RATIOS = (0.13, 0.5, 1.0, 1.02, 1.5, 1.7, 2.0, 2.02, 3.0, 4.0, 4.4, 8.0, 33.0)


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A source of several levels in memory; remembers what was read of it."""

    levels: tuple[Rgb, ...]
    level_downsamples: tuple[float, ...]
    mpp: float | None = MPP_L0
    coordinate_space: Literal["level0-pixels", "image-pixels"] = "level0-pixels"
    boxes: list[tuple[int, Box]] = field(default_factory=list)
    content_id: str = "pyramid"
    channels: tuple[str, ...] = ("red", "green", "blue")
    bounds_l0: Box | None = None
    stated: Stated = field(default_factory=Stated)

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return tuple(Size(level.shape[1], level.shape[0]) for level in self.levels)

    @property
    def size_l0(self) -> Size:
        return self.level_sizes[0]

    def read_level(self, level: int, box: Box) -> Rgb:
        size = self.level_sizes[level]
        assert box.area > 0
        assert Box(0, 0, size.width, size.height).encloses(box)
        self.boxes.append((level, box))
        return self.levels[level][box.y : box.bottom, box.x : box.right]

    def read_channels(self, level: int, box: Box, indices: Sequence[int]) -> Rgb:
        return self.read_level(level, box)[..., list(indices)]

    def unstored_share(self, level: int, box: Box) -> float:
        """Black pixels stand for those that are not stored."""
        return float((self.read_level(level, box) == 0).all(axis=2).mean())


def pyramid(pixels: Rgb, *downsamples: float) -> Pyramid:
    """`pixels` and smaller levels, their sizes rounded down as scanners do."""
    sizes = [(int(pixels.shape[1] / factor), int(pixels.shape[0] / factor)) for factor in downsamples]
    smaller = (np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8) for size in sizes)
    return Pyramid((pixels, *smaller), (1.0, *downsamples))


PIXELS = np.random.default_rng(11).integers(0, 256, (190, 333, 3), np.uint8)
SOURCES = (pyramid(PIXELS), pyramid(PIXELS, 2.0), pyramid(PIXELS, 4.0), pyramid(PIXELS, 2.0031, 4.016, 8.1))


def boxes_in(size: Size) -> st.SearchStrategy[Box]:
    """Boxes of at least one pixel inside `size`."""

    def from_corner(corner: tuple[int, int]) -> st.SearchStrategy[Box]:
        x, y = corner
        sides = st.tuples(st.integers(1, size.width - x), st.integers(1, size.height - y))
        return sides.map(lambda side: Box(x, y, *side))

    return st.tuples(st.integers(0, size.width - 1), st.integers(0, size.height - 1)).flatmap(from_corner)


def mirrored(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions folded into 0..length - 1 about the centres of the outermost pixels."""
    period = max(1, 2 * length - 2)
    folded = np.abs(positions) % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(positions)


def crop_mirrored(whole: Rgb, box: Box) -> Rgb:
    rows = mirrored(np.arange(box.y, box.bottom), whole.shape[0])
    columns = mirrored(np.arange(box.x, box.right), whole.shape[1])
    return whole[rows][:, columns]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(SOURCES), st.sampled_from(RATIOS), st.data())
def test_a_box_is_a_cut_out_of_the_whole(source: Pyramid, ratio: float, data: st.DataObject) -> None:
    """Whatever box is read, inside, outside or across the edge: bit for bit the whole slide, mirrored."""
    view = SlideView(source, mpp_l0=MPP_L0)
    grid, whole = whole_of(view, ratio)
    reach = st.integers(-70, max(grid.size.width, grid.size.height) + 70)
    box = Box(data.draw(reach), data.draw(reach), data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150)))

    assert whole.shape == (grid.size.height, grid.size.width, 3)
    assert np.array_equal(view.read(grid, box), crop_mirrored(whole, box))


@cache
def whole_of(view: SlideView, ratio: float) -> tuple[Grid, Rgb]:
    grid = view.grid(MPP_L0 * ratio)
    return grid, view.read(grid, grid.extent)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SOURCES), st.sampled_from(RATIOS), boxes_in(Size(333, 190)))
def test_every_grid_starts_at_the_corner_of_the_slide(source: Pyramid, ratio: float, region_l0: Box) -> None:
    """The grid of a model is the slide's; the pixels of a region are those that hold its level-0 pixels."""
    grid = SlideView(source, mpp_l0=MPP_L0).grid(MPP_L0 * ratio)
    box = grid.box_from_l0(region_l0)

    assert (grid.origin_x_l0, grid.origin_y_l0) == (0, 0)
    assert grid.extent.encloses(box)
    if grid.extent.right > box.right:
        assert box.right * grid.downsample >= region_l0.right - 1e-6
        assert (box.right - 1) * grid.downsample < region_l0.right or box.width == 1
    assert box.x * grid.downsample <= region_l0.x + 1e-6


def slow_read(view: SlideView, grid: Grid) -> NDArray[np.float64]:
    """The oracle, for one level: block means and bilinear interpolation pixel by pixel, in floating point."""
    pixels = np.asarray(view.source.read_level(0, view.extent_l0), np.float64)
    factor = max(1, math.floor(grid.downsample + 0.5))
    padding = ((0, -pixels.shape[0] % factor), (0, -pixels.shape[1] % factor), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    blocks = padded.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))
    found = np.empty((grid.size.height, grid.size.width, 3))
    for row in range(grid.size.height):
        for column in range(grid.size.width):
            x = min(max((column + 0.5) * grid.downsample / factor - 0.5, 0), columns - 1)
            y = min(max((row + 0.5) * grid.downsample / factor - 0.5, 0), rows - 1)
            left, top = int(x), int(y)
            near = blocks[top : top + 2, left : left + 2]
            weights = np.outer([1 - y + top, y - top], [1 - x + left, x - left])[: near.shape[0], : near.shape[1]]
            found[row, column] = np.tensordot(weights, near, axes=2)
    return found


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.3, 1.7, 2.0, 2.6, 3.0, 4.4])
def test_reading_agrees_with_the_slow_oracle(ratio: float) -> None:
    """Fixed-point interpolation stays within rounding and a 64th of a pixel of the exact one."""
    smooth = cv2.GaussianBlur(PIXELS, (0, 0), 3)
    view = SlideView(pyramid(smooth[5:48, 7:68]), mpp_l0=MPP_L0)
    grid = view.grid(MPP_L0 * ratio)

    assert np.abs(view.read(grid, grid.extent) - slow_read(view, grid)).max() <= 1.5


def ramp(*downsamples: float) -> Pyramid:
    """Levels whose red is the x and whose green is the y of the pixel's centre, in level-0 pixels."""
    levels = []
    for downsample in downsamples:
        positions = np.rint((np.arange(int(250 / downsample)) + 0.5) * downsample).astype(np.uint8)
        x, y = np.meshgrid(positions, positions)
        levels.append(np.dstack([x, y, x]))
    return Pyramid(tuple(levels), downsamples)


@pytest.mark.parametrize("ratio", [0.5, 1.3, 1.7, 2.0, 3.0, 4.4, 4.9])
@pytest.mark.parametrize("source_downsamples", [(), (2.0,), (4.0,), (2.0031, 4.016)])
def test_pixels_are_where_the_grid_says(ratio: float, source_downsamples: tuple[float, ...]) -> None:
    """On a ramp each pixel's value shows its position: at its own centre, whichever level it came from."""
    source = ramp(1.0, *source_downsamples)
    view = SlideView(source, mpp_l0=MPP_L0)
    grid = view.grid(MPP_L0 * ratio)
    inner = Box(3, 3, grid.size.width - 6, grid.size.height - 6)
    read = view.read(grid, inner).astype(np.float64)

    centres = np.stack([np.arange(inner.width), np.arange(inner.width)], axis=1) + 3.5
    x_l0 = grid.l0_from_grid(centres)[:, 0]
    y_l0 = grid.l0_from_grid(centres)[: inner.height, 1]
    assert np.abs(read[..., 0] - x_l0).max() <= 1.6
    assert np.abs(read[..., 1] - y_l0[:, None]).max() <= 1.6


@pytest.mark.parametrize(
    ("mpp", "level", "downsample"), [(0.25, 0, 1.0), (0.26, 0, 1.0), (0.5, 1, 2.0031), (1.05, 2, 4.016)]
)
def test_a_level_within_5_percent_is_used_as_it_is(mpp: float, level: int, downsample: float) -> None:
    """No resampling where a level is close: its own pixels, its true mpp."""
    source = SOURCES[3]
    view = SlideView(source, mpp_l0=MPP_L0)
    grid = view.grid(mpp)

    assert (grid.downsample, grid.mpp, grid.size) == (downsample, MPP_L0 * downsample, source.level_sizes[level])
    assert np.array_equal(view.read(grid, grid.extent), source.levels[level])


def test_other_resolutions_are_met_exactly() -> None:
    """Beyond 5 % the grid has the mpp asked for."""
    grid = SlideView(SOURCES[3], mpp_l0=0.25).grid(0.425)

    assert grid.downsample == pytest.approx(1.7)
    assert grid.mpp == pytest.approx(0.425)
    assert grid.size == Size(196, 112)


def test_only_the_pixels_needed_are_read() -> None:
    """A box in the middle costs its own area."""
    source = pyramid(PIXELS)
    view = SlideView(source, mpp_l0=MPP_L0)
    for ratio in (1.0, 1.7, 2.0, 0.5):
        grid = view.grid(MPP_L0 * ratio)
        source.boxes.clear()
        view.read(grid, Box(20, 10, 8, 6))
        (level, box), *more = source.boxes
        assert (level, more) == (0, [])
        assert box.width <= 8 * ratio + 4
        assert box.height <= 6 * ratio + 4


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7, 2.0, 4.4])
def test_reading_in_pieces_changes_nothing(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large reads are cut to bound memory; the pixels are the same."""
    view = SlideView(SOURCES[1], mpp_l0=MPP_L0)
    grid = view.grid(MPP_L0 * ratio)
    expected = view.read(grid, grid.extent)

    monkeypatch.setattr(view_module, "MAX_PIECE_PX", 1000)
    assert np.array_equal(view.read(grid, grid.extent), expected)
    monkeypatch.setattr(view_module, "MAX_PIECE_PX", 2**24)
    monkeypatch.setattr(view_module, "_PIECE_SIDE", 50)
    assert np.array_equal(view.read(grid, grid.extent), expected)


def test_a_source_far_too_coarse_is_refused() -> None:
    """A slide at 29 um/px holds nothing for a model at 0.25 um/px: said, instead of enlarged 116 times."""
    view = SlideView(SOURCES[0], mpp_l0=29.0)

    with pytest.raises(InvalidRequestError, match="too coarse") as caught:
        view.grid(0.25)
    assert caught.value.errors[0][0] == "mpp"
    assert view.grid(29.0 / 8).size == Size(8 * 333, 8 * 190)


@pytest.mark.parametrize("width", [200, 196, 163])
def test_the_overview_starts_at_the_corner(width: int) -> None:
    """A level of exactly the overview's scale (4 and 3.92 here) does not move it to its own pixels."""
    source = ramp(1.0, 2.0, 3.92, 4.0)
    view = SlideView(source, mpp_l0=MPP_L0)

    overview, downsample = view.overview(Box(35, 38, width, 161), 50)

    assert downsample == max(width, 161) / 50
    assert max(overview.shape[:2]) == 50
    x_l0 = 35 + (np.arange(overview.shape[1]) + 0.5) * downsample
    y_l0 = 38 + (np.arange(overview.shape[0]) + 0.5) * downsample
    assert np.abs(overview[5, 2:-2, 0] - x_l0[2:-2]).max() <= 1.1
    assert np.abs(overview[2:-2, 5, 1] - y_l0[2:-2]).max() <= 1.1


@pytest.mark.parametrize("side", [1, 7, 64, 300, 5000])
@pytest.mark.parametrize("source", SOURCES, ids=["one", "2", "4", "odd"])
def test_the_overview_fits(source: Pyramid, side: int) -> None:
    """The whole region within the given side, never enlarged, with the scale it has."""
    region_l0 = Box(11, 13, 300, 150)

    overview, downsample = SlideView(source, mpp_l0=MPP_L0).overview(region_l0, side)

    assert max(overview.shape[:2]) == min(side, 300)
    assert downsample == max(1.0, 300 / side)
    assert overview.mean() == pytest.approx(PIXELS.mean(), abs=8)
    if downsample == 1:
        assert np.array_equal(overview, PIXELS[13:163, 11:311])
