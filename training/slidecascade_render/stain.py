"""Converts stain concentrations to scanned pixels, for any options with these fields."""

from __future__ import annotations

from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.lattice import Field, white_noise

Rgb = npt.NDArray[np.uint8]

# Optical densities of one unit of stain at (R, G, B), in the manner of Ruifrok and Johnston 2001.
_HAEMATOXYLIN: Final = (0.50, 0.60, 0.28)
_EOSIN: Final = (0.035, 0.250, 0.140)
_BLOOD: Final = (0.030, 0.420, 0.300)
_SHARPENING_PX: Final = 1.2


class Stain(Protocol):
    """Strength and hue of the stain of a section.

    `haematoxylin` and `eosin` scale optical densities, `hue` in [-1, 1] turns the colours from reddish to bluish,
    `background` is the light through blank glass in [0, 1].
    """

    @property
    def haematoxylin(self) -> float: ...
    @property
    def eosin(self) -> float: ...
    @property
    def hue(self) -> float: ...
    @property
    def background(self) -> float: ...


class Scanner(Protocol):
    """Properties of a scanner: `mpp` um per pixel, point spread, noise, unsharp mask, JPEG round trip."""

    @property
    def seed(self) -> int: ...
    @property
    def mpp(self) -> float: ...
    @property
    def blur_um(self) -> float: ...
    @property
    def noise(self) -> float: ...
    @property
    def sharpening(self) -> float: ...
    @property
    def jpeg_quality(self) -> int | None: ...


def stain_matrix(options: Stain) -> npt.NDArray[np.float32]:
    """Optical density of each stain (rows: haematoxylin, eosin, blood) in each channel, float32 (3, 3)."""
    turn = options.hue
    haematoxylin = np.array(_HAEMATOXYLIN) * options.haematoxylin * [1 + 0.25 * turn, 1.0, 1 - 0.35 * turn]
    eosin = np.array(_EOSIN) * options.eosin * [1 + 0.9 * turn, 1.0, 1 - 0.35 * turn]
    blood = np.array(_BLOOD) * options.eosin
    return np.stack([haematoxylin, eosin, blood]).astype(np.float32)


def transmit(options: Stain, haematoxylin: Field, eosin: Field, blood: Field) -> Field:
    """Light through the section by the law of Beer and Lambert: float32 (H, W, 3) RGB, 0 to 255."""
    stains = cv2.merge([haematoxylin, eosin, blood])
    density = cv2.transform(stains, stain_matrix(options).T * np.float32(-np.log(10.0)))
    lamp = 255.0 * options.background * np.array([1.0, 0.985, 0.995])
    light: Field = cv2.exp(density) * lamp.astype(np.float32)
    return light


def margin_px(options: Scanner) -> int:
    """Number of pixels around a window that `scan` needs for identical pixels in every window."""
    blur = int(np.ceil(4.0 * options.blur_um / options.mpp))
    blur += int(np.ceil(4.0 * _SHARPENING_PX)) if options.sharpening > 0 else 0
    return blur + (16 if options.jpeg_quality is not None else 0)


def scan(options: Scanner, light: Field, *, x_px: int, y_px: int) -> Rgb:
    """Blur, noise, quantisation and compression. `light` starts at pixel (x_px, y_px) of the plane.

    Returns uint8 RGB of the same size; its outer `margin_px` pixels depend on the window.
    """
    sigma = options.blur_um / options.mpp
    if sigma > 0.15:
        light = cv2.GaussianBlur(light, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    if options.sharpening > 0:
        soft = cv2.GaussianBlur(light, (0, 0), _SHARPENING_PX, borderType=cv2.BORDER_REFLECT_101)
        light = light + np.float32(options.sharpening) * (light - soft)
    height, width = light.shape[:2]
    if options.noise > 0:
        noise = white_noise(options.seed, x_px=x_px, y_px=y_px, width_px=width, height_px=height)
        light = light + np.float32(options.noise) * noise
    pixels: Rgb = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    if options.jpeg_quality is None:
        return pixels
    return _compressed(pixels, options.jpeg_quality, x_px % 16, y_px % 16)


def _compressed(pixels: Rgb, quality: int, skip_x: int, skip_y: int) -> Rgb:
    """A JPEG round trip whose 16-pixel blocks lie on the plane's grid, independent of the window."""
    framed = cv2.copyMakeBorder(pixels, skip_y, 0, skip_x, 0, cv2.BORDER_REFLECT_101)
    coded = cv2.imencode(".jpg", framed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded: Rgb = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[skip_y:, skip_x:, ::-1])
