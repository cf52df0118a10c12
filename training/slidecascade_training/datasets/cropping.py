"""Crops around labelled centres, extracted exactly as in the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from slidecascade.geometry import Mpp
from slidecascade.slides import crops
from slidecascade.slides.tissue import GLASS_MIN, GLASS_SPREAD
from slidecascade.slides.view import SlideView
from slidecascade_evaluation.annotation import Points

_NEARLY_ALL: Final = 0.95
_BLOCK_PX: Final = 1024  # centres within a block are read together; blocks do not change pixels


def crops_at(
    view: SlideView, centres_l0: Points, *, mpp: Mpp, size_px: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """Crops ``(n, size_px, size_px, 3)`` uint8 RGB around `centres_l0` ``(N, 2)``, with the rows they belong to.

    The same grid, rounding and mirroring as `slidecascade.cells.cascade`, so that a network is served the same
    crops it was trained on.

    Raises:
        UnreadableSlideError: when the slide is damaged.
        InvalidRequestError: when the slide is much coarser than `mpp`.
    """
    grid = view.grid(mpp)
    corners = crops.corners_of(grid.grid_from_l0(centres_l0), size_px)
    blocks = corners // _BLOCK_PX
    order = np.lexsort((blocks[:, 0], blocks[:, 1]))
    starts = np.flatnonzero((np.diff(blocks[order], axis=0, prepend=-(2**60)) != 0).any(axis=1))
    for rows in np.split(order, starts[1:]):
        if not len(rows):
            continue
        box = crops.bounds_of(corners[rows], size_px)
        local = corners[rows] - (box.x, box.y)
        yield rows, crops.cut(view.read(grid, box), local, size_px=size_px, height_px=size_px, width_px=size_px)


def is_glass(image: npt.NDArray[np.uint8]) -> bool:
    """Whether a crop, uint8 RGB ``(H, W, 3)``, is nearly all glass, by the service's own test of it."""
    darkest, brightest = image.min(axis=2), image.max(axis=2)
    glass = (darkest >= GLASS_MIN) & (brightest - darkest <= GLASS_SPREAD)
    return bool(glass.mean() > _NEARLY_ALL)
