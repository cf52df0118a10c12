"""Training targets of the nuclei network, from label images."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

WEIGHT_UNIT: Final = 16.0
"""Weights are stored as uint8, in units of 1/16."""


def target_planes(labels: npt.NDArray[np.int32]) -> Image:
    """Foreground (0 or 255), distance to the rim relative to the instance's greatest (0 to 255), and weight.

    The relative distance does not change with scale, so the planes can be warped like the image. Weights (in
    1/16) favour small instances, which count as much as large ones, and seams between touching instances.
    Background next to an instance has the weight of the instance, otherwise small ones are predicted too large.
    """
    as_float = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    is_cell = labels > 0
    is_rim = is_cell & ((cv2.dilate(as_float, square) != labels) | (cv2.erode(as_float, square) != labels))
    distance = cv2.distanceTransform((is_cell & ~is_rim).astype(np.uint8), cv2.DIST_L2, 5) + is_cell
    greatest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(greatest, labels.ravel(), distance.ravel())
    relative = distance / np.maximum(greatest, 1.0)[labels]
    area = np.bincount(labels.ravel()).astype(np.float32)
    weight = np.where(is_cell, np.clip((300.0 / np.maximum(area, 1)) ** 0.5, 1.0, 2.5)[labels], 1.0)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    weight = np.where(is_cell, weight, cv2.dilate(weight, wide))
    lowest = cv2.erode(np.where(is_cell, as_float, 1e6).astype(np.float32), wide)
    is_seam = (cv2.dilate(as_float, wide) != lowest) & (lowest < 1e6) & (cv2.dilate(as_float, wide) > 0)
    weight = np.where(is_seam, np.maximum(weight, 4.0), weight)
    planes = (is_cell * 255.0, relative * 255.0, weight * WEIGHT_UNIT)
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)
