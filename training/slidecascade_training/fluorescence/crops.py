"""Training crops of fluorescent nuclei: any rotation and scale, other light, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.models.tensors import PERCENTILES
from slidecascade_training.fluorescence.targets import flow_targets, ray_targets
from slidecascade_training.nuclei.targets import target_planes

Floats = NDArray[np.float32]

CROP_PX: Final = 160
_SCALES: Final = (0.6, 1.7)
_LEAST_SPREAD: Final = 16 / 255


@dataclass(frozen=True, slots=True)
class Specimen:
    """An image ``(H, W)`` of 0 to 1 with its labels, and the targets that are made once of it."""

    image: Floats
    labels: NDArray[np.int32]
    planes: NDArray[np.uint8]
    flows: Floats

    @classmethod
    def of(cls, image: Floats, labels: NDArray[np.int32]) -> Specimen:
        return cls(image, labels, target_planes(labels), flow_targets(labels))


@dataclass(frozen=True, slots=True)
class Crops:
    """Arrays of N crops; `flows` and `planes` are at full resolution, rays at every second pixel.

    Flows and distances are halves, which copies half as many bytes between processes; distances of up to 96 px are
    exact to 1/16 px.
    """

    images: Floats
    planes: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    flows: NDArray[np.float16]
    distances: NDArray[np.float16]
    known: NDArray[np.bool_]


def scaled_intensity(image: NDArray[np.uint8] | NDArray[np.uint16]) -> Floats:
    """``(H, W)`` of 0 to 1 by the percentiles the service scales slides by."""
    full = float(np.iinfo(image.dtype).max)
    low, high = np.percentile(image, PERCENTILES) / full
    least = _LEAST_SPREAD if image.dtype == np.uint8 else 255 / full
    spread = (image.astype(np.float32) / full - low) / max(high - low, least)
    return np.asarray(np.clip(spread, 0, 1), np.float32)


@dataclass(frozen=True, slots=True)
class CropDraw:
    """Batches of augmented crops by step, images drawn by their share: a function of `seed` and the step alone."""

    pool: Sequence[Specimen]
    shares: Sequence[float]
    size: int
    seed: int

    def __call__(self, step: int) -> Crops:
        rng = np.random.default_rng([self.seed, step])
        weights = np.asarray(self.shares, np.float64)
        chosen = rng.choice(len(self.pool), self.size, p=weights / weights.sum())
        parts = [_crop(self.pool[index], rng) for index in chosen]
        return Crops(*(np.stack(column) for column in zip(*parts, strict=True)))


def _crop(item: Specimen, rng: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
    linear, offset, scale = _placement(item, rng)
    matrix = np.column_stack([linear, offset])
    size = (CROP_PX, CROP_PX)
    smooth, nearest = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    image = cv2.GaussianBlur(item.image, (0, 0), 0.4 / scale) if scale < 0.7 else item.image
    image = cv2.warpAffine(image, matrix, size, flags=smooth, borderMode=cv2.BORDER_REFLECT_101)
    planes = cv2.warpAffine(item.planes, matrix, size, flags=smooth, borderMode=cv2.BORDER_CONSTANT)
    marked = item.labels.astype(np.float32)
    labels = cv2.warpAffine(marked, matrix, size, flags=nearest, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)
    flows = cv2.warpAffine(item.flows, matrix, size, flags=nearest, borderMode=cv2.BORDER_CONSTANT)
    turned = flows @ np.linalg.inv(linear).T.astype(np.float32)
    turned /= np.maximum(np.linalg.norm(turned, axis=2, keepdims=True), 1e-6)
    distances, known = ray_targets(labels.astype(np.int32))
    halves = turned.astype(np.float16), distances.astype(np.float16)
    return _vary(np.asarray(image, np.float32), rng), np.asarray(planes), labels >= 0, *halves, known


def _placement(item: Specimen, rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """The matrix and offset that map a crop's pixels to the image's, and the scale."""
    height, width = item.labels.shape
    centre = rng.uniform(0, 1, 2) * (width, height)
    if rng.random() < 0.7:
        ys, xs = np.nonzero(item.labels[::4, ::4])
        if len(ys):
            pick = rng.integers(len(ys))
            centre = np.array([xs[pick], ys[pick]]) * 4 + rng.uniform(-CROP_PX / 3, CROP_PX / 3, 2)
    scale = float(np.exp(rng.uniform(*np.log(_SCALES))))
    margin = np.minimum(CROP_PX / 2 / scale, np.array([width, height]) / 2)
    centre = np.clip(centre, margin, np.array([width, height]) - margin)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([rng.choice([-1.0, 1.0]) / scale, 1 / scale])
    return linear, centre - linear @ np.array([CROP_PX / 2, CROP_PX / 2]), scale


def _vary(image: Floats, rng: np.random.Generator) -> Floats:
    """Gain, background, gamma, blur or sharpening, and noise."""
    varied = image * np.exp(rng.uniform(np.log(0.5), np.log(1.4))) + rng.uniform(-0.02, 0.06)
    varied = np.clip(varied, 0, 1) ** np.exp(rng.normal(0, 0.2))
    kind = rng.random()
    if kind < 0.25:
        varied = cv2.GaussianBlur(varied, (0, 0), rng.uniform(0.4, 1.4))
    elif kind < 0.35:
        varied = 2 * varied - cv2.GaussianBlur(varied, (0, 0), 1.0)
    if rng.random() < 0.4:
        varied = varied + rng.normal(0, rng.uniform(0.005, 0.05), varied.shape)
    return np.asarray(np.clip(varied, 0, 1), np.float32)
