"""Converts fluorescence crops to rendered haematoxylin and eosin.

Fluorescence images have the most instances and the sharpest truth, bright-field ones are few. Therefore some
fluorescence crops are converted to rendered haematoxylin and eosin: the nuclei keep their truth and get the
optical densities of a stain over synthetic tissue (Beer-Lambert law; stain vectors around those of Ruifrok and
Johnston, 2001).
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]

CROP_PX: Final = 192
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.09, 0.95, 0.28], np.float32)


def render_stained(image: Image, planes: Image, rng: np.random.Generator) -> Image:
    """Convert a fluorescence crop to haematoxylin and eosin over synthetic tissue."""
    cell = cv2.GaussianBlur(planes[..., 0], (0, 0), rng.uniform(0.5, 1.0)).astype(np.float32) / 255.0
    depth = planes[..., 1].astype(np.float32) / 255.0
    texture = image[..., 0].astype(np.float32)
    texture = np.clip(texture / max(float(np.percentile(texture, 99)), 8.0), 0, 1)
    grain = _noise(rng, rng.uniform(0.7, 2.0))
    vesicular = rng.uniform(0, 0.6) * (rng.random() < 0.6)
    nuclear = rng.uniform(0.6, 1.6) * (0.55 + 0.45 * texture) * (1 + 0.12 * grain) * (1 - vesicular * depth)
    cytoplasm = 0.5 + 0.25 * _noise(rng, 12.0) + 0.15 * _noise(rng, 3.0) + 0.07 * grain
    cytoplasm = cytoplasm.clip(0, 1.5) * _vacuoles(rng)
    haematoxylin = cell * nuclear + (1 - cell) * cytoplasm * rng.uniform(0, 0.45)
    eosin = cytoplasm * rng.uniform(0.2, 1.0) * (1 - cell * rng.uniform(0.3, 0.9))
    stains = [vector + rng.normal(0, 0.06, 3) for vector in (_HAEMATOXYLIN, _EOSIN)]
    density = haematoxylin[..., None] * stains[0] + eosin[..., None] * stains[1]
    return to_bytes(np.exp(-density.clip(0)) * rng.uniform(0.88, 1.02) * rng.uniform(0.96, 1.02, 3))


def _noise(rng: np.random.Generator, radius: float) -> Field:
    """A smooth random field of about unit variance with grains of the given radius in pixels."""
    coarse = max(1, int(radius))
    side = -(-CROP_PX // coarse) + 2
    field = rng.normal(0, 1, (side, side)).astype(np.float32)
    size = side * coarse
    grown: Field = cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)
    return grown[:CROP_PX, :CROP_PX]


def _vacuoles(rng: np.random.Generator) -> Field:
    """1 in tissue, near 0 in round holes, which nuclei may touch or overlap."""
    tissue = np.ones((CROP_PX, CROP_PX), np.float32)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 40)):
            x, y = rng.integers(0, CROP_PX, 2).tolist()
            cv2.circle(tissue, (x, y), int(rng.uniform(2, 22)), rng.uniform(0, 0.15), -1, cv2.LINE_AA)
        tissue = cv2.GaussianBlur(tissue, (0, 0), 0.8)
    return tissue


def to_bytes(image: npt.NDArray[np.floating]) -> Image:
    """0 to 1 floats to uint8."""
    return (image * 255.0).round().clip(0, 255).astype(np.uint8)
