"""What a camera sees of labelled cells: texture, point spread, background, bleed-through, noise, bit depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade_render.fluorescence.masks import Labels

Image = NDArray[np.float32]
BitDepth = Literal[8, 12, 16]

_OFFSET_PART: Final = 0.02
_FULL_PART: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticsOptions:
    """The optical model. Light is counted in photons.

    Attributes:
        photons: of the brightest pixels of a typical cell.
        background: photons everywhere, more or less by up to half over the image.
        psf_px: standard deviation of the point spread.
        haze: the part of the light that is out of focus.
        read_noise: standard deviation of the camera's noise, in photons.
        bleed: the part of each channel's light that is seen in the others.
        brightness_deviation: standard deviation of the logarithm of the brightness of cells.
        texture: how much the brightness varies inside a cell.
        bits: of the camera; counts are stored in 16 bits.
    """

    photons: float = 400.0
    background: float = 20.0
    psf_px: float = 1.2
    haze: float = 0.1
    read_noise: float = 3.0
    bleed: float = 0.05
    brightness_deviation: float = 0.35
    texture: float = 0.25
    bits: BitDepth = 16


def cell_light(labels: Labels, options: OpticsOptions, rng: np.random.Generator) -> Image:
    """``(H, W)`` photons of labelled cells before the optics: domes of varying brightness with texture."""
    count = int(labels.max(initial=0))
    if not count:
        return np.zeros(labels.shape, np.float32)
    exact = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    is_inner = (labels > 0) & (cv2.erode(exact, square) == labels) & (cv2.dilate(exact, square) == labels)
    depth = cv2.distanceTransform(is_inner.astype(np.uint8), cv2.DIST_L2, 5) + (labels > 0)
    deepest = np.ones(count + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    relative = np.minimum(depth / deepest[labels], 1)
    dome = np.sqrt(1 - (1 - relative) ** 2)
    flatness = rng.uniform(0.2, 0.8, count + 1).astype(np.float32)[labels]
    brightness = np.exp(rng.normal(0, options.brightness_deviation, count + 1)).astype(np.float32)
    brightness[0] = 0
    grain = _smooth_noise(labels.shape, 3.0, rng) + _smooth_noise(labels.shape, 1.2, rng)
    varied = np.clip(1 + options.texture * grain, 0.2, 2)
    light: Image = np.float32(options.photons) * brightness[labels] * (flatness + (1 - flatness) * dome) * varied
    return light


def camera_counts(
    channels: list[Image], sharp: list[Image], options: OpticsOptions, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """``(H, W, C)`` counts of light `channels`, blurred by the optics, and of `sharp` light, which already is."""
    seen = [_blurred(light, options) + more for light, more in zip(channels, sharp, strict=True)]
    total = np.sum(seen, axis=0)
    full = 2**options.bits - 1
    counts = np.empty((*total.shape, len(seen)), np.uint16)
    for index, light in enumerate(seen):
        mixed = light + options.bleed * (total - light) + options.background * _uneven(light.shape, rng)
        photons = rng.poisson(mixed) + rng.normal(0, options.read_noise, mixed.shape)
        # The exposure is set so that the brightest pixels do not saturate.
        brightest = max(options.photons, float(np.percentile(mixed, 99.9)))
        scaled = full * (_OFFSET_PART + _FULL_PART * photons / brightest)
        counts[..., index] = np.clip(np.rint(scaled), 0, full)
    return counts


def background_noise(options: OpticsOptions) -> float:
    """Standard deviation in photons where there is background alone."""
    return float(np.hypot(np.sqrt(options.background), options.read_noise))


def _blurred(light: Image, options: OpticsOptions) -> Image:
    focus = cv2.GaussianBlur(light, (0, 0), options.psf_px) if options.psf_px > 0 else light
    haze = cv2.GaussianBlur(light, (0, 0), 6 * max(options.psf_px, 1))
    return np.asarray((1 - options.haze) * focus + options.haze * haze, np.float32)


def _smooth_noise(shape: tuple[int, ...], sigma_px: float, rng: np.random.Generator) -> Image:
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigma_px)
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def _uneven(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    coarse = rng.uniform(0.5, 1.5, (4, 4)).astype(np.float32)
    return np.asarray(
        cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC).clip(0.25, 2), np.float32
    )
