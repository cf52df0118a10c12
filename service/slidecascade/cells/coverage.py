"""How much of the tissue a companion of a `cells` pipeline covers: a semantic network, such as one of fat.

Cells say how many are steatotic, areas how much of the tissue is fat; neither follows from the other. The
companion sees the tissue of a tile in a grid of its own. A pixel of it belongs to the tile and the region that
hold its middle, and whether it counts depends on its place on the slide alone, by the rules of
`slidecascade.areas.tile`. So the numbers of tiles of any size, and of the fields of jobs, add up to those of the
region, which are those of an `areas` pipeline with the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.tile import SQUARE_PX, pixels_before, squares_with
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.work import TileWork
from slidecascade.pipelines.cells import AreaFraction
from slidecascade.slides.flaws import MARGIN_PX
from slidecascade.slides.tiling import Tile, whole_lattice
from slidecascade.slides.tissue import BLOCK_PX, tissue_blocks
from slidecascade.slides.view import SlideView


@dataclass(frozen=True, slots=True)
class Coverage:
    """Pixels of a companion's grid: of its class, and of tissue."""

    covered_px: int
    tissue_px: int

    @classmethod
    def total(cls, parts: Iterable[Coverage]) -> Coverage:
        """All of `parts` together."""
        found = list(parts)
        return cls(sum(part.covered_px for part in found), sum(part.tissue_px for part in found))


def coverage(fraction: AreaFraction, work: TileWork[Any, Any], tile: Tile, view: SlideView) -> Coverage:
    """What the class of `fraction` covers of the pixels whose middle lies in the core of `tile` and the region."""
    grid = work.grids[fraction.model.name]
    owned = _owned(work, tile, grid)
    if not owned.area:
        return Coverage(0, 0)
    boxes = _Boxes.of(fraction, owned, grid)
    patch = work.read(view, grid, boxes.patch)
    blocks = tissue_blocks(patch, dark_field=False)
    if not blocks.all():
        blocks |= work.has_no_glass
    ink, blurred = work.flawed_blocks(patch, blocks, grid)
    blocks &= ~ink & ~blurred
    tissue_px = int(np.count_nonzero(_window(_pixels(blocks), owned, boxes.patch)))
    looked_at = _in_squares(blocks, boxes)
    if not looked_at.any():
        return Coverage(0, tissue_px)
    mask = _mask(fraction, work, _window(patch, boxes.network, boxes.patch), boxes) & looked_at
    with work.stopwatch.measure("decode"):
        kept = _without_small(mask, max(1.0, fraction.min_area_um2 / grid.mpp**2))
    return Coverage(int(np.count_nonzero(_window(kept, owned, boxes.seen))), tissue_px)


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes of a companion's grid, each inside the one after the next.

    Attributes:
        seen: the owned pixels, and so many around them that a small area is seen to be small.
        squares: whole squares of `SQUARE_PX` that hold `seen`.
        network: what the network reads for `seen`: its receptive field around it.
        patch: what is read: `network`, and what the blocks of `squares` depend on.
    """

    seen: Box
    squares: Box
    network: Box
    patch: Box

    @classmethod
    def of(cls, fraction: AreaFraction, owned: Box, grid: Grid) -> _Boxes:
        lattice = math.lcm(fraction.model.input.multiple_of, BLOCK_PX)
        whole = whole_lattice(grid.size, lattice)
        margin = math.ceil(max(1.0, fraction.min_area_um2 / grid.mpp**2)) - 1
        seen = owned.inflated(margin).clipped(grid.extent)
        squares = _outward(seen, SQUARE_PX).clipped(whole)
        network = _outward(seen.inflated(_radius_px(fraction)), lattice).clipped(whole)
        around = _outward(squares.inflated(MARGIN_PX), lattice).clipped(whole)
        x, y = min(network.x, around.x), min(network.y, around.y)
        right, bottom = max(network.right, around.right), max(network.bottom, around.bottom)
        return cls(seen, squares, network, Box(x, y, right - x, bottom - y))


def _radius_px(fraction: AreaFraction) -> int:
    """So far around a pixel the network looks, where that is known."""
    side = fraction.model.receptive_field_px
    halo_px = fraction.model.halo_px
    return min(halo_px, side // 2) if isinstance(side, int) else halo_px


def _owned(work: TileWork[Any, Any], tile: Tile, grid: Grid) -> Box:
    """The pixels of `grid` with their middle in the core of `tile`, in the region and on the slide.

    The cores of tiles end where those of their neighbours begin, at the last bit; the last ones go on to the
    region's edge, which may lie a part of a pixel beyond the grid in which tiles are cut.
    """
    core, extent, region = tile.core, work.grid.extent, work.region_l0
    corners = np.array([[core.x, core.y], [core.right, core.bottom]])
    (left, top), (right, bottom) = work.grid.l0_from_grid(corners).tolist()
    left, top = max(left, region.x), max(top, region.y)
    right = region.right if core.right >= extent.right else min(right, region.right)
    bottom = region.bottom if core.bottom >= extent.bottom else min(bottom, region.bottom)
    x, end_x = (pixels_before(at, grid.origin_x_l0, grid.downsample) for at in (left, right))
    y, end_y = (pixels_before(at, grid.origin_y_l0, grid.downsample) for at in (top, bottom))
    return Box(x, y, max(0, end_x - x), max(0, end_y - y)).clipped(grid.extent)


def _mask(
    fraction: AreaFraction, work: TileWork[Any, Any], patch: NDArray[Any], boxes: _Boxes
) -> NDArray[np.bool_]:
    """Which pixels of `boxes.seen` are of the class; `patch` shows `boxes.network`."""
    model = fraction.model
    options = model.options.model_copy(update={"foreground": work.thresholds[model.name]})
    answer = work.run(model, work.normalised(np.ascontiguousarray(patch))[None])
    work.control.check()
    with work.stopwatch.measure("decode"):
        masks = fraction.head.masks({name: array[0] for name, array in answer.items()}, options)
        layers = [_window(layer, boxes.seen, boxes.network) for layer in masks]
        chosen: NDArray[np.bool_] = np.any([layer == fraction.class_index + 1 for layer in layers], axis=0)
        return chosen


def _in_squares(blocks: NDArray[np.bool_], boxes: _Boxes) -> NDArray[np.bool_]:
    """Which pixels of `boxes.seen` lie in a square with tissue; `blocks` are those of `boxes.patch`."""
    left, top = (boxes.squares.x - boxes.patch.x) // BLOCK_PX, (boxes.squares.y - boxes.patch.y) // BLOCK_PX
    rows, columns = boxes.squares.height // BLOCK_PX, boxes.squares.width // BLOCK_PX
    held = squares_with(
        blocks[top : top + rows, left : left + columns], (boxes.squares.height, boxes.squares.width)
    )
    return _window(held, boxes.seen, boxes.squares)


def _without_small(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    """`mask` without areas, connected by sides, of fewer pixels."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    is_kept = figures[:, cv2.CC_STAT_AREA] >= least_px
    is_kept[0] = False
    kept: NDArray[np.bool_] = is_kept[labels]
    return kept


def _pixels(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pixels: NDArray[np.bool_] = blocks.repeat(BLOCK_PX, axis=0).repeat(BLOCK_PX, axis=1)
    return pixels


def _window(pixels: NDArray[Any], box: Box, of: Box) -> NDArray[Any]:
    """The part of `pixels`, which show the box `of`, that shows `box`."""
    left, top = box.x - of.x, box.y - of.y
    part: NDArray[Any] = pixels[top : top + box.height, left : left + box.width]
    return part


def _outward(box: Box, multiple_of: int) -> Box:
    """The smallest box of whole multiples that holds `box`."""
    x, y = box.x // multiple_of * multiple_of, box.y // multiple_of * multiple_of
    right, bottom = (-(-end // multiple_of) * multiple_of for end in (box.right, box.bottom))
    return Box(x, y, right - x, bottom - y)
