"""The work on one tile, as far as it is the same for every kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.cancellation import Control
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.tile_result import AnyTileResult
from slidecascade.kinds.turns import averaged, is_averaged
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade.models.tensors import Tensors
from slidecascade.pipelines.spec import Pipeline
from slidecascade.runners.runner import Runner
from slidecascade.slides.channels import ChannelUse, as_input
from slidecascade.slides.facts import SlideFacts
from slidecascade.slides.flaws import Flaws, blurred_blocks, ink_blocks
from slidecascade.slides.stain import StainFit
from slidecascade.slides.tiling import Tile
from slidecascade.slides.tissue import BLOCK_PX, signal_blocks, tissue_blocks
from slidecascade.slides.view import SlideView
from slidecascade.timing import Stopwatch
from slidecascade.wire.fields import Averaging

_SEEN_PX = 16
"""Distance of the pixels looked at for the white of what is not stored: files store tiles of 64 px or more."""

P = TypeVar("P", bound=Pipeline)
T_co = TypeVar("T_co", bound=AnyTileResult, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWork(ABC, Generic[P, T_co]):
    """Everything the tiles of a region share. Each kind derives its own.

    `region_l0` is the box that is wanted, in level-0 pixels. `grids` holds the pixel grid of every model by name;
    `thresholds` a number for each. `channels` are what networks are given in place of the colours; `stain`
    normalises the colours that they are given; with `tta` d4 their answers are averages over turned images.
    """

    pipeline: P
    region_l0: Box
    grids: Mapping[str, Grid]
    thresholds: Mapping[str, float]
    find_facts: Callable[[], SlideFacts]
    channels: tuple[ChannelUse, ...] = ()
    stain: StainFit | None = None
    tta: Averaging = "none"
    runner: Runner
    control: Control
    stopwatch: Stopwatch

    @property
    def dark_field(self) -> bool:
        """Whether the slide is light on black; of an upload that is being decoded, this waits for all of it."""
        return self.find_facts().dark_field

    @property
    def has_no_glass(self) -> bool:
        """Whether all of the slide counts as tissue: colours that are light on black; may wait as `dark_field`."""
        return not self.channels and self.dark_field

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The grid in which tiles are cut."""

    @property
    @abstractmethod
    def aligned_to(self) -> int:
        """Spacing of the lattice of tiles, a multiple of the network's stride and of the tissue blocks."""

    @property
    @abstractmethod
    def halo_px(self) -> int:
        """Pixels read around a core, a multiple of `aligned_to`."""

    @property
    def needed(self) -> Box:
        """What tiles have to cover, in pixels of the grid."""
        return self.grid.box_from_l0(self.region_l0)

    @abstractmethod
    def result(self, tile: Tile, view: SlideView) -> T_co:
        """What there is in `tile` of `view`; a straight line, for concurrency lives outside."""

    def read(self, view: SlideView, grid: Grid, box: Box) -> NDArray[Any]:
        """The pixels of a box of a grid."""
        with self.stopwatch.measure("read"):
            return view.read(grid, box)

    def tissue(self, patch: NDArray[Any]) -> NDArray[np.bool_]:
        """``(H / 8, W / 8)``: which blocks of a patch are not glass; of channels, where there is signal."""
        if self.channels:
            return signal_blocks(patch, [use.intensity.scaled_signal for use in self.channels])
        return tissue_blocks(patch, dark_field=False)

    def without_flaws(
        self, patch: NDArray[Any], blocks: NDArray[np.bool_], tile: Tile
    ) -> tuple[NDArray[np.bool_], Flaws]:
        """The tissue `blocks` of a patch that are neither ink nor out of focus, and how much of the core's part in
        the region is.
        """
        ink, blurred = self.flawed_blocks(patch, blocks, self.grid)
        if not (ink.any() or blurred.any()):
            return blocks, Flaws()
        wanted = tile.core.clipped(self.grid.box_from_l0(self.region_l0)).shifted(-tile.read.x, -tile.read.y)
        rows = np.s_[wanted.y // BLOCK_PX : -(-wanted.bottom // BLOCK_PX)]
        part = np.s_[rows, wanted.x // BLOCK_PX : -(-wanted.right // BLOCK_PX)]
        flaws = Flaws(*(float(BLOCK_PX**2 * np.count_nonzero(each[part])) for each in (ink, blurred)))
        return blocks & ~ink & ~blurred, flaws

    def flawed_blocks(
        self, patch: NDArray[Any], blocks: NDArray[np.bool_], grid: Grid
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which blocks of a patch of `grid` are ink, and which of its tissue `blocks` are out of focus.

        No block of light on black, or of channels, is either.
        Where the grid enlarges the slide every edge is soft, and focus is not judged.
        """
        none = np.zeros_like(blocks)
        if self.channels:
            return none, none
        ink = ink_blocks(patch)
        blurred = blocks & ~ink & blurred_blocks(patch) if grid.downsample >= 1 else none
        if not (ink.any() or blurred.any()) or self.dark_field:
            return none, none
        return ink, blurred

    def normalised(self, patch: NDArray[Any]) -> NDArray[Any]:
        """`patch` with its colours normalised, where the request or the pipeline asks for it."""
        if self.stain is None:
            return patch
        with self.stopwatch.measure("stain"):
            return self.stain.apply(patch)

    def run(self, model: SegmenterSpec | ClassifierSpec, images: NDArray[Any]) -> Tensors:
        """What `model` returns for ``(N, H, W, C)`` images; raises what the control raises."""
        if is_averaged(model, self.tta):
            return averaged(partial(self._run_once, model), images, model.outputs)
        return self._run_once(model, images)

    def _run_once(self, model: SegmenterSpec | ClassifierSpec, images: NDArray[Any]) -> Tensors:
        self.control.check()
        if self.channels:
            images = as_input(images, dtype=model.input.dtype, layout=model.input.layout)
        with self.stopwatch.measure("segment" if model.task == "segment" else "classify"):
            return self.runner.run(model.name, {model.input.name: images})

    def unstored_px(self, patch: NDArray[Any], tile: Tile, view: SlideView) -> float:
        """The pixels of the core's part in the region that the source does not store; `patch` shows `tile.read`.

        The source is asked only where the patch has the pure white of unstored pixels.
        """
        if self.channels:
            return 0.0
        wanted = tile.core.clipped(self.grid.box_from_l0(self.region_l0))
        left, top = wanted.x - tile.read.x, wanted.y - tile.read.y
        seen = patch[top : top + wanted.height : _SEEN_PX, left : left + wanted.width : _SEEN_PX]
        if not (seen == 255).all(axis=2).any():
            return 0.0
        with self.stopwatch.measure("read"):
            return view.unstored_share(self.grid, wanted) * wanted.area


def core_blocks(blocks: NDArray[np.bool_], tile: Tile) -> NDArray[np.bool_]:
    """The tissue blocks of the read box that touch the core, whose corner lies on their lattice."""
    left, top = (tile.core.x - tile.read.x) // BLOCK_PX, (tile.core.y - tile.read.y) // BLOCK_PX
    return blocks[top : top + -(-tile.core.height // BLOCK_PX), left : left + -(-tile.core.width // BLOCK_PX)]
