"""Rendered liver with the mask of its fat, in stains, preparations and scanners drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.liver.crops import random_options
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_training.kidney.crops import TILE_PX

Image = npt.NDArray[np.uint8]

MPP: Final = 1.0
SMALLEST_UM2: Final = 8.0
"""Smaller vacuoles are not looked for: at `MPP` they are no more than a lighter pixel."""
HELD_OUT: Final = 2_000_000
"""Seeds from here on are never trained on: the threshold is chosen and figures are measured there."""
_LEAST_STD: Final = 12.0


@dataclass(frozen=True, slots=True)
class FattyTile:
    """A tile of liver at `MPP`, uint8 RGB ``(TILE_PX, TILE_PX, 3)``, and its fat: uint8 ``(TILE_PX, TILE_PX)``,
    1 where more than half of a pixel is a vacuole."""

    image: Image
    mask: Image


def rendered(first_seed: int, count: int) -> list[FattyTile]:
    """A tile of each of `count` specimens, rendered at twice the resolution or at that of the network; those that
    show glass alone are left out."""
    tiles = map(_tile, range(first_seed, first_seed + count))
    return [tile for tile in tiles if tile.image.std() > _LEAST_STD]


def _tile(seed: int) -> FattyTile:
    options = _fatty(seed)
    side = round(TILE_PX * MPP / options.mpp)
    tissue = render(options, x_px=(seed * 4099) % 100_000, y_px=0, width_px=side, height_px=side)
    image, fat = tissue.image, tissue.fat
    if side != TILE_PX:
        image, fat = (
            np.asarray(cv2.resize(each, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)
            for each in (image, fat)
        )
    return FattyTile(image, _large_enough((fat > 127).astype(np.uint8)))


def _large_enough(mask: Image) -> Image:
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    kept = stats[:, cv2.CC_STAT_AREA] * MPP**2 >= SMALLEST_UM2
    kept[0] = False
    return np.asarray(kept[numbers], np.uint8)


def _fatty(seed: int) -> TissueOptions:
    """A specimen from none to nearly all steatotic, with more glass, clefts and vessels than is usual."""
    generator = np.random.default_rng([seed, 8])
    options, _ = random_options(seed)
    ballooning = float(generator.uniform(0.0, 0.3)) ** 2 * 3
    least, draw = (0.0, 0.6)[int(generator.random() < 0.45)], generator.random()
    steatosis = 0.0 if draw < 0.15 else float(generator.uniform(least, 0.98 - ballooning))
    return replace(
        options,
        mpp=0.5 * MPP if generator.random() < 0.8 else MPP,
        steatosis=steatosis,
        ballooning=ballooning,
        large_vacuoles=float(generator.uniform(0.3, 0.97)),
        vessels=float(generator.uniform(0.3, 1.6)),
        glass=bool(generator.random() < 0.5),
        cell_scale=float(np.exp(generator.uniform(-0.3, 0.35))),
        cracks=float(generator.uniform(0.2, 1.0)) if generator.random() < 0.6 else 0.0,
        sinusoid_um=float(generator.uniform(0.2, 2.2)),
        blood=float(generator.uniform(0.0, 1.0)),
    )
