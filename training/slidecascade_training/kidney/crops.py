"""Training crops of rendered kidney, turned, scaled and stained anew by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.kidney.tissue import RenderedKidney, render
from slidecascade_training.prefetch import Batch

Image = npt.NDArray[np.uint8]

MPP: Final = 8.0
TILE_PX: Final = 256
CROP_PX: Final = 128
HELD_OUT: Final = 1_000_000
"""Seeds from here on are never trained on: thresholds are chosen and figures are measured there."""


class MaskedTile(Protocol):
    """Rendered tissue, uint8 RGB ``(TILE_PX, TILE_PX, 3)``, and what is to be found in it, 1 in uint8
    ``(TILE_PX, TILE_PX)``."""

    @property
    def image(self) -> Image: ...
    @property
    def mask(self) -> Image: ...


def rendered(first_seed: int, count: int) -> list[RenderedKidney]:
    """A tile of each of `count` sections, `TILE_PX` wide; those that show glass alone are left out."""
    tiles = (
        render(seed, mpp=MPP, x_px=(seed * 4099) % 100_000, y_px=0, width_px=TILE_PX, height_px=TILE_PX)
        for seed in range(first_seed, first_seed + count)
    )
    return [tile for tile in tiles if tile.image.std() > 12]


@dataclass(frozen=True, slots=True)
class CropDraw:
    """The batch of a step: `batch` crops of tiles, a function of the seed and the step."""

    tiles: tuple[MaskedTile, ...]
    batch: int
    seed: int

    def __call__(self, step: int) -> Batch:
        chance = np.random.default_rng([self.seed, step])
        crops = [self._crop(chance) for _ in range(self.batch)]
        images = np.stack([image for image, _ in crops])
        return Batch(images, np.stack([mask for _, mask in crops])[..., None].astype(np.float32))

    def _crop(self, chance: np.random.Generator) -> tuple[Image, Image]:
        tile = self.tiles[int(chance.integers(len(self.tiles)))]
        matrix = _placement(chance)
        size = (CROP_PX, CROP_PX)
        image = cv2.warpAffine(tile.image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        mask = cv2.warpAffine(
            tile.mask * np.uint8(255), matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        image, mask = _exposed(image, chance), (mask > 127).astype(np.uint8)
        if chance.random() < 0.05:
            # Scanners leave out what holds no tissue by their own measure.
            unscanned = int(chance.integers(CROP_PX // 2))
            image[:unscanned], mask[:unscanned] = 0, 0
        return image, mask


def _placement(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    """From pixels of a crop to those of its tile: any turn, mirrored or not, 0.74 to 1.35 times the size."""
    turn = chance.uniform(0, 2 * np.pi) if chance.random() < 0.4 else chance.integers(4) * np.pi / 2
    scale = np.exp(chance.uniform(-0.3, 0.3))
    flip = chance.choice([-1.0, 1.0])
    linear = scale * np.array([[np.cos(turn) * flip, -np.sin(turn)], [np.sin(turn) * flip, np.cos(turn)]])
    reach = 0.5 * CROP_PX * np.abs(linear).sum(axis=1)
    centre = [chance.uniform(min(each, 0.5 * TILE_PX), max(TILE_PX - each, 0.5 * TILE_PX)) for each in reach]
    shift = np.array(centre) - linear @ np.full(2, 0.5 * CROP_PX)
    return np.column_stack([linear, shift])


def _exposed(image: Image, chance: np.random.Generator) -> Image:
    """Another stain, lamp, focus, scanner and compression."""
    density = -np.log((image.astype(np.float32) + 1.0) / 256.0)
    # The diagonal stains more or less, the rest turns hues.
    mixing = np.diag(chance.uniform(0.7, 1.3) * chance.normal(1.0, 0.08, 3)) + chance.normal(0.0, 0.05, (3, 3))
    light = 256.0 * np.exp(-cv2.transform(density, mixing.astype(np.float32))) - 1.0
    light = light * chance.normal(1.0, 0.02, 3).astype(np.float32) + np.float32(chance.normal(0.0, 4.0))
    if chance.random() < 0.4:
        light = cv2.GaussianBlur(light, (0, 0), chance.uniform(0.3, 0.9))
    elif chance.random() < 0.3:
        light += chance.uniform(0.2, 1.0) * (light - cv2.GaussianBlur(light, (0, 0), 1.0))
    light += chance.normal(0.0, chance.uniform(0.0, 5.0), light.shape)
    done: Image = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    if chance.random() < 0.4:
        coded = cv2.imencode(".jpg", done[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(chance.integers(40, 96))])[1]
        done = np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
    return done
