"""Augmented views of a training image: rotation, mirroring, elastic deformation, stain and blur. Numpy and
OpenCV only.

Staining varies in the space of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001), which Tellez et al.
(2018) found best for generalisation to other laboratories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_HED: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical densities of haematoxylin, eosin and DAB at R, G, B (rows): skimage's ``rgb_from_hed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Strength of each augmentation; 0 disables it.

    Attributes:
        right_angles: rotation by multiples of 90 degrees, and mirroring.
        rotation_deg: turned further by up to so many degrees, edges mirrored.
        stain: each stain's amount times 1 ± stain, and plus up to a tenth of that.
        blur_px: Gaussian blur with a sigma of up to so many pixels, in every other view.
        elastic_px: bent by up to about so many pixels (Simard et al. 2003), in every other view.
        elastic_grid_px: distance over which bending changes.
    """

    right_angles: bool = True
    rotation_deg: float = 15.0
    stain: float = 0.25
    blur_px: float = 1.0
    elastic_px: float = 1.5
    elastic_grid_px: float = 24.0


STANDARD: Final = Augmentation()
NONE: Final = Augmentation(right_angles=False, rotation_deg=0, stain=0, blur_px=0, elastic_px=0)


def view_of(
    image: Image, generator: np.random.Generator, given: Augmentation, *, labels: Image | None = None
) -> tuple[Image, Image | None]:
    """A view of an RGB image ``(H, W, 3)``, and of `labels` ``(H, W, C)`` bent the same way.

    All randomness comes from `generator`: equal states give equal views.
    """
    if given.right_angles:
        turns, mirrored = int(generator.integers(4)), bool(generator.integers(2))
        image = _turned(image, turns, mirrored)
        labels = None if labels is None else _turned(labels, turns, mirrored)
    if given.rotation_deg or given.elastic_px:
        map_x, map_y = _displaced(image.shape[0], image.shape[1], generator, given)
        image = _sampled(image, map_x, map_y, cv2.INTER_LINEAR)
        labels = None if labels is None else _sampled(labels, map_x, map_y, cv2.INTER_LINEAR)
    if given.stain:
        image = restained(image, generator, given.stain)
    if given.blur_px and generator.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), generator.uniform(0.1, given.blur_px)), np.uint8)
    return image, labels


def restained(image: Image, generator: np.random.Generator, strength: float) -> Image:
    """The image with the amount of each stain scaled and shifted, within bounds."""
    factors = generator.uniform(1 - strength, 1 + strength, 3)
    shifts = generator.uniform(-strength, strength, 3) * 0.1
    # Density -> stains -> other amounts -> density is one affine map of densities.
    matrix = np.linalg.inv(_HED) @ np.diag(factors) @ _HED
    table = -np.log10((np.arange(256) + 1.0) / 256.0).astype(np.float32)
    density = cv2.transform(table[image], matrix.T.astype(np.float32))
    density += (shifts @ _HED).astype(np.float32)
    light = cv2.exp(density * np.float32(-np.log(10.0))) * np.float32(256.0) - np.float32(1.0)
    stained: Image = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return stained


def _turned(image: Image, turns: int, mirrored: bool) -> Image:
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))


def _displaced(
    height: int, width: int, generator: np.random.Generator, given: Augmentation
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Where each pixel of the view is looked up."""
    angle = np.deg2rad(generator.uniform(-given.rotation_deg, given.rotation_deg))
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    map_x = np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2
    map_y = np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2
    if given.elastic_px and generator.random() < 0.5:
        nodes = (2, *(max(2, round(side / given.elastic_grid_px) + 1) for side in (height, width)))
        bends = generator.uniform(-given.elastic_px, given.elastic_px, nodes).astype(np.float32)
        map_x = map_x + cv2.resize(bends[0], (width, height), interpolation=cv2.INTER_CUBIC)
        map_y = map_y + cv2.resize(bends[1], (width, height), interpolation=cv2.INTER_CUBIC)
    return map_x.astype(np.float32), map_y.astype(np.float32)


def _sampled(image: Image, map_x: npt.NDArray[np.float32], map_y: npt.NDArray[np.float32], how: int) -> Image:
    return np.asarray(cv2.remap(image, map_x, map_y, how, borderMode=cv2.BORDER_REFLECT_101), np.uint8)
