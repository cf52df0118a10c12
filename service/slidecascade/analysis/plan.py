"""A region to analyse, and the way to its pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box, Mpp
from slidecascade.kinds.result import CoordinateSpace, Origin
from slidecascade.pipelines.spec import Pipeline
from slidecascade.slides.channels import ChannelUse
from slidecascade.slides.doubts import NOT_HE, SWAPPED
from slidecascade.slides.facts import SlideFacts, readable
from slidecascade.slides.source import OpenSource, Source
from slidecascade.slides.stain import StainFit
from slidecascade.slides.view import SlideView
from slidecascade.warning import AnswerWarning
from slidecascade.wire.fields import Averaging

PIECE_PX = 256
"""Side of the pieces a damaged slide's overview is read in."""

UNREAD_GREY = 200
"""What an overview shows where the slide cannot be read."""


def no_wait(_rows: int) -> None:
    """Where all rows of a source can be read."""


def known(facts: SlideFacts) -> Callable[[], SlideFacts]:
    """The `find_facts` of a task whose facts have been found."""
    return lambda: facts


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTask:
    """A region to analyse, every default filled in.

    Attributes:
        open_source: opens the source; called once per tile, and once more, privately, for a tile that failed.
        region_l0: the region, inside the source.
        mpp: micrometres per level-0 pixel.
        find_facts: gives what holds for the slide as a whole; of an upload that is being decoded, it waits for all
            of it. Called from several threads.
        thresholds: one number per model of the pipeline.
        tile_px: greatest side of a tile's core in pixels of the first model's grid.
        held_bytes: memory that is held for the region, less that of what is found.
        stated_doubts: what makes any answer about this source doubtful, known from what it states.
        origin: what output coordinates count from: level 0's corner, or that of the slide's bounds.
        shift: moves the seams (x, y), in those pixels; what is found must not change.
        object_diameter_px: the usual diameter of objects in level-0 pixels, from which `mpp` follows as if they
            had the size that the segmenter was trained for; None: `mpp` is physical.
        tta: whether networks' answers are averaged over turned images.
        channels: what networks are given in place of the colours.
        stain: normalises the colours that networks are given.
        wait_for_rows: waits until so many rows of level 0 can be read; raises when they never will be.
    """

    pipeline: Pipeline
    open_source: OpenSource
    region_l0: Box
    mpp: Mpp
    coordinate_space: CoordinateSpace
    find_facts: Callable[[], SlideFacts]
    thresholds: Mapping[str, float]
    tile_px: int | None = None
    allow_partial: bool = False
    held_bytes: int = 0
    stated_doubts: tuple[AnswerWarning, ...] = ()
    origin: Origin = "slide"
    shift: tuple[int, int] = (0, 0)
    wait_for_rows: Callable[[int], None] = no_wait
    channels: tuple[ChannelUse, ...] = ()
    stain: StainFit | None = None
    object_diameter_px: float | None = None
    tta: Averaging = "none"

    @property
    def facts(self) -> SlideFacts:
        """What holds for the slide as a whole."""
        return self.find_facts()

    @property
    def doubts(self) -> tuple[AnswerWarning, ...]:
        """What makes any answer about this source doubtful."""
        facts = self.facts
        is_other = facts.unlike_he or facts.dark_field
        return (
            *self.stated_doubts,
            *([SWAPPED] if facts.red_blue_swapped else []),
            *([NOT_HE] if is_other and self.pipeline.stained_with == "H&E" else []),
        )

    def view(self, source: Source) -> SlideView:
        """The pixels of `source`, which `open_source` has opened, as networks are given them."""
        return SlideView(source, mpp_l0=self.mpp, channels=self.channels)

    def overview(self, max_side_px: int, *, damaged: bool) -> tuple[NDArray[np.uint8], float]:
        """The region as ``(H, W, 3)`` uint8 RGB with no side longer than `max_side_px`, and its downsample.

        Of a `damaged` slide the parts that cannot be read are left grey.

        Raises:
            UnreadableSlideError: when the slide cannot be read and is not known to be damaged.
        """
        with self.open_source() as source:
            view = SlideView(source, mpp_l0=self.mpp)
            grid = view.overview_grid(self.region_l0, max_side_px)
            if not damaged:
                return view.read(grid, grid.extent), grid.downsample
        picture = np.full((grid.size.height, grid.size.width, 3), UNREAD_GREY, np.uint8)
        boxes = [
            Box(x, y, PIECE_PX, PIECE_PX).clipped(grid.extent)
            for y in range(0, grid.size.height, PIECE_PX)
            for x in range(0, grid.size.width, PIECE_PX)
        ]

        def read(source: Source, box: Box) -> NDArray[np.uint8]:
            return SlideView(source, mpp_l0=self.mpp).read(grid, box)

        for box, pixels in readable(self.open_source, boxes, read):
            picture[box.y : box.bottom, box.x : box.right] = pixels
        return picture, grid.downsample
