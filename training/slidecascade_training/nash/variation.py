"""Augmentation of training crops: variation of scanner, stain and preparation."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


def varied(images: Images, size_px: int, generator: np.random.Generator) -> Field:
    """Turned, mirrored, scaled, restained, relit, refocused, noisy and compressed copies of square RGB crops.

    `images` uint8 (N, S, S, 3); returns float32 (N, size_px, size_px, 3), 0 to 255. Stains vary as mixtures of
    optical densities (after Tellez and others 2018), so that colour does not identify a class.
    """
    turned = np.stack([_turned(image, generator) for image in images])
    restained = _restained(turned, generator)
    focused = np.stack([_refocused(image, generator) for image in restained])
    grain = np.where(generator.random(len(images)) < 0.7, generator.uniform(0, 5, len(images)), 0.0)
    noise = generator.standard_normal(focused.shape, dtype=np.float32)
    noisy: Field = focused + noise * grain.astype(np.float32)[:, None, None, None]
    np.clip(noisy, 0, 255, out=noisy)
    return np.stack([_resized(_compressed(image, generator), size_px) for image in noisy])


def _turned(image: Images, generator: np.random.Generator) -> Images:
    """A quarter turn, a mirror image, and up to 8 percent larger or smaller around the centre."""
    kind = int(generator.integers(8))
    flipped = image[:, ::-1] if kind >= 4 else image
    turned = np.ascontiguousarray(np.rot90(flipped, kind % 4))
    scale, centre = float(generator.uniform(0.92, 1.08)), (image.shape[0] - 1) / 2
    move = np.array([[scale, 0, centre * (1 - scale)], [0, scale, centre * (1 - scale)]])
    side = image.shape[0]
    return np.asarray(cv2.warpAffine(turned, move, (side, side), borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _restained(images: Images, generator: np.random.Generator) -> Field:
    """Other mixtures and strengths of stain, and another light, stronger at one side: float32, 0 to 255."""
    count, side = images.shape[:2]
    density = np.log(np.float32(256.0)) - np.log(images.astype(np.float32) + np.float32(1.0))
    mix = np.eye(3) * np.exp(generator.normal(0, 0.10, (count, 1, 3)))
    mix = (mix + generator.normal(0, 0.05, (count, 3, 3))) * generator.uniform(0.75, 1.3, (count, 1, 1))
    mixed = np.matmul(density.reshape(count, -1, 3), mix.astype(np.float32)).reshape(images.shape)
    lamp = generator.uniform(0.90, 1.06, (count, 1, 1, 1)) * generator.uniform(0.97, 1.03, (count, 1, 1, 3))
    across = np.linspace(-1, 1, side)
    slope = generator.uniform(-0.05, 0.05, (2, count, 1, 1))
    shade = 1 + slope[0] * across[None, :, None] + slope[1] * across[None, None, :]
    light = np.float32(256.0) * np.exp(-mixed) * (lamp * shade[..., None]).astype(np.float32)
    return np.asarray(np.clip(light - np.float32(1.0), 0, 255), np.float32)


def _refocused(image: Field, generator: np.random.Generator) -> Field:
    """A third of the crops blurred, up to two pixels of a slide at half the resolution; a third sharpened."""
    kind = generator.random()
    if kind < 1 / 3:
        return _blurred(image, float(generator.uniform(0.4, 2.2)))
    if kind < 2 / 3:
        soft = _blurred(image, float(generator.uniform(0.4, 1.2)))
        return image + np.float32(generator.uniform(0.2, 0.9)) * (image - soft)
    return image


def _blurred(image: Field, sigma: float) -> Field:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _compressed(image: Field, generator: np.random.Generator) -> Field:
    """Half of the crops through JPEG, half of these as slides of half the resolution store them.

    The crop begins anywhere in the blocks of 8 px, as it does in a slide.
    """
    if generator.random() < 0.5:
        return image
    quality, shrunk = int(generator.integers(40, 96)), bool(generator.random() < 0.5)
    side = image.shape[0]
    stored = _resized(image, side // 2, cv2.INTER_AREA) if shrunk else image
    top, left = (int(offset) for offset in generator.integers(8, size=2))
    padded = cv2.copyMakeBorder(stored.astype(np.uint8), top, 8, left, 8, cv2.BORDER_REFLECT_101)
    _, encoded = cv2.imencode(".jpg", padded, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    rows, columns = stored.shape[:2]
    return _resized(decoded[top : top + rows, left : left + columns].astype(np.float32), side)


def _resized(image: Field, side_px: int, interpolation: int = cv2.INTER_LINEAR) -> Field:
    if image.shape[0] == side_px:
        return image
    return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=interpolation), np.float32)
