"""Stain normalisation: one colour map per slide, fitted on the tissue of the slide's fixed sample.

- `macenko`: M. Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009. The
  two stains are the extreme directions of optical density in the plane of its first two principal components.
- `vahadane`: A. Vahadane et al., Structure-preserving color normalization and sparse stain separation for
  histological images, IEEE TMI 2016. The two stains are a sparse non-negative factorisation of optical density.
  The amounts of stain in a pixel are the least-squares ones, as for `macenko`.
- `reinhard`: E. Reinhard et al., Color transfer between images, IEEE CG&A 2001, in CIE L*a*b*.

The colour of a normalised pixel depends on its own colour and on the fit only, bit for bit: every step works on
single values, never on a matrix product whose rounding depends on the number of pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UnusableStainError
from slidecascade.slides.tissue import GLASS_MIN
from slidecascade.wire.fields import StainMethod

LIGHT: Final = 240.0
"""Intensity of unstained light, as in Macenko's reference implementation."""

TISSUE_OD: Final = 0.15
"""Least optical density of all three channels of a pixel that is fitted."""

REFERENCE_VECTORS: Final = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
REFERENCE_STRONGEST: Final = (1.9705, 1.0308)
"""Haematoxylin and eosin (red, green, blue) and the 99th percentile of their amounts: Macenko's reference."""

REFERENCE_LAB: Final = ((41.8, 29.2, -14.5), (16.1, 11.9, 9.2))
"""Mean and deviation of L*, a*, b* of the tissue of OpenSlide's test slide CMU-1-Small-Region."""

BLENDED_FROM: Final = 180
"""Pixels whose darkest channel is at least `GLASS_MIN` stay as they are; from this value on both are mixed."""

MIN_FITTED_PX: Final = 500
MOST_FITTED_PX: Final = 2**17
MIN_ANGLE_DEG: Final = 6.0
MAX_SCALE: Final = 5.0
"""Bounds of a usable fit: pixels, angle between the stains, and factor by which amounts or colours are changed."""

_PERCENT: Final = 1.0
_STRONGEST_PERCENT: Final = 99.0
_FACTORED_PX: Final = 20_000
_ROUNDS: Final = 60
_SPARSITY: Final = 0.1
_SEED: Final = 20160427
_CHUNK_PX: Final = 2**14

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_OD: Final[NDArray[np.float32]] = -np.log((np.arange(256, dtype=np.float32) + 1) / np.float32(LIGHT))
_WEIGHT: Final[NDArray[np.float32]] = np.clip(
    (GLASS_MIN - np.arange(256, dtype=np.float32)) / np.float32(GLASS_MIN - BLENDED_FROM), 0, 1
)


@dataclass(frozen=True, slots=True)
class StainFit(ABC):
    """The colour map of a slide."""

    method: StainMethod

    def apply(self, images: Pixels) -> Pixels:
        """``(..., 3)`` uint8 RGB, normalised; glass stays as it is."""
        flat = np.ascontiguousarray(images).reshape(-1, 1, 3)
        result = np.empty_like(flat)
        for start in range(0, len(flat), _CHUNK_PX):  # pieces that stay in a core's cache
            planes = [np.asarray(plane, np.uint8) for plane in cv2.split(flat[start : start + _CHUNK_PX])]
            darkest = cv2.min(cv2.min(planes[0], planes[1]), planes[2])
            weight = cv2.LUT(darkest, _WEIGHT) if darkest.max() > BLENDED_FROM else None
            mapped = self._mapped(planes)
            for plane, normalised in zip(planes, mapped, strict=True):
                if weight is not None:
                    np.subtract(normalised, plane, out=normalised)
                    np.multiply(normalised, weight, out=normalised)
                    np.add(normalised, plane, out=normalised)
                np.add(normalised, np.float32(0.5), out=normalised)  # truncated below
                np.clip(normalised, 0, 255, out=normalised)
            result[start : start + _CHUNK_PX] = np.stack(mapped, axis=2)
        return result.reshape(images.shape)

    @abstractmethod
    def _mapped(self, planes: list[Pixels]) -> list[NDArray[np.float32]]:
        """Red, green and blue, ``(N, 1)`` each, normalised, 0 to 255 and beyond."""


@dataclass(frozen=True, slots=True)
class DensityFit(StainFit):
    """Two stains: their unit vectors (red, green, blue), haematoxylin first, and the 99th percentile of each."""

    vectors: tuple[tuple[float, float, float], tuple[float, float, float]]
    strongest: tuple[float, float]

    def matrix(self) -> Floats:
        """``(3, 3)``: optical density to normalised optical density."""
        scale = np.array(REFERENCE_STRONGEST) / np.array(self.strongest)
        product: Floats = np.array(REFERENCE_VECTORS).T @ (
            scale[:, None] * np.linalg.pinv(np.array(self.vectors).T)
        )
        return product

    def _mapped(self, planes: list[Pixels]) -> list[NDArray[np.float32]]:
        densities = [np.asarray(cv2.LUT(plane, _OD), np.float32) for plane in planes]
        mapped = []
        for row in -self.matrix().astype(np.float32):
            density: NDArray[np.float32] = densities[0] * row[0]
            density += densities[1] * row[1]
            density += densities[2] * row[2]
            np.exp(density, out=density)
            density *= np.float32(LIGHT)
            mapped.append(density)
        return mapped


@dataclass(frozen=True, slots=True)
class LabFit(StainFit):
    """Mean and deviation of L*, a* and b* of the slide's tissue."""

    means: tuple[float, float, float]
    deviations: tuple[float, float, float]

    def _mapped(self, planes: list[Pixels]) -> list[NDArray[np.float32]]:
        moved = []
        for index, plane in enumerate(_lab(planes)):
            factor = np.float32(REFERENCE_LAB[1][index] / self.deviations[index])
            moved.append((plane - np.float32(self.means[index])) * factor + np.float32(REFERENCE_LAB[0][index]))
        return _rgb(moved)


def fit_stain(method: StainMethod, sample: Pixels) -> StainFit:
    """The colour map of a bright-field slide from `sample`, ``(..., 3)`` uint8 RGB of fixed places of it.

    Raises:
        UnusableStainError: the sample holds too little tissue, or colours that cannot be normalised.
    """
    pixels = sample.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // MOST_FITTED_PX)]
    density = _OD[pixels].astype(np.float64)
    stained = (density >= TISSUE_OD).all(axis=1)
    if int(stained.sum()) < MIN_FITTED_PX:
        raise UnusableStainError(
            f"The sample of the slide holds {int(stained.sum())} stained pixels, fewer than the {MIN_FITTED_PX} "
            "needed to fit its stain: send `stain` with the method none, or a slide with more tissue."
        )
    return _FITS[method](method, pixels[stained], density[stained])


def _macenko(method: StainMethod, _pixels: Pixels, density: Floats) -> StainFit:
    axes = np.linalg.eigh(np.cov(density.T))[1][:, 1:3]
    axes *= np.where(axes.sum(axis=0) < 0, -1, 1)  # densities are positive: the plane is seen from one side
    plane = density @ axes
    angle = np.arctan2(plane[:, 1], plane[:, 0])
    ends = np.percentile(angle, [_PERCENT, 100 - _PERCENT])
    return _density_fit(method, axes @ np.array([np.cos(ends), np.sin(ends)]), density)


def _vahadane(method: StainMethod, _pixels: Pixels, density: Floats) -> StainFit:
    chosen = density
    if len(density) > _FACTORED_PX:
        places = np.random.default_rng(_SEED).choice(len(density), _FACTORED_PX, replace=False)
        chosen = density[np.sort(places)]
    vectors: Floats = np.array(REFERENCE_VECTORS).T
    vectors /= np.linalg.norm(vectors, axis=0)
    for _ in range(_ROUNDS):
        amounts = _sparse_amounts(vectors, chosen)
        vectors = np.maximum(_best_vectors(amounts, chosen, vectors), 1e-6)
        vectors /= np.linalg.norm(vectors, axis=0)
    return _density_fit(method, vectors, density)


def _sparse_amounts(vectors: Floats, density: Floats) -> Floats:
    """``(2, N)`` >= 0: the minimum of ``|D - V A|^2 / 2 + sparsity * sum(A)`` of two stains, in closed form."""
    target = vectors.T @ density.T - _SPARSITY
    gram = vectors.T @ vectors
    amounts = np.asarray(np.linalg.solve(gram, target), np.float64)
    alone = np.maximum(target, 0) / np.diag(gram)[:, None]
    gain = np.diag(gram)[:, None] * alone**2
    is_mixed = (amounts >= 0).all(axis=0)
    first = gain[0] >= gain[1]
    corner = np.where(np.stack([first, ~first]), alone, 0.0)
    return np.where(is_mixed, amounts, corner)


def _best_vectors(amounts: Floats, density: Floats, vectors: Floats) -> Floats:
    """``(3, 2)``: one after the other, the vectors that fit `density` best."""
    gram, cross = amounts @ amounts.T, density.T @ amounts.T
    found = vectors.copy()
    for index in range(2):
        other = 1 - index
        if gram[index, index] > 0:
            found[:, index] = (cross[:, index] - found[:, other] * gram[other, index]) / gram[index, index]
            found[:, index] = np.maximum(found[:, index], 0)
    return found


def _density_fit(method: StainMethod, vectors: Floats, density: Floats) -> StainFit:
    """The fit of two unit vectors, ``(3, 2)`` in any order."""
    if vectors[0, 0] < vectors[0, 1]:  # haematoxylin absorbs more of red than eosin does
        vectors = vectors[:, ::-1]
    angle = np.degrees(np.arccos(np.clip(vectors[:, 0] @ vectors[:, 1], -1, 1)))
    if not MIN_ANGLE_DEG <= angle <= 90:
        raise UnusableStainError(
            f"The colours of the slide hold one stain only (the two that fit best are {angle:.0f} degrees apart): "
            "send `stain` with the method none."
        )
    amounts = np.linalg.pinv(vectors) @ density.T
    strongest = np.percentile(amounts, _STRONGEST_PERCENT, axis=1)
    _require_scale(np.array(REFERENCE_STRONGEST) / np.maximum(strongest, 1e-9))
    red, blue = (tuple(float(value) for value in column) for column in vectors.T)
    return DensityFit(method, (_three(red), _three(blue)), (float(strongest[0]), float(strongest[1])))


def _reinhard(method: StainMethod, pixels: Pixels, _density: Floats) -> StainFit:
    lab = [
        plane.astype(np.float64)
        for plane in _lab([np.ascontiguousarray(pixels[:, index : index + 1]) for index in range(3)])
    ]
    means, deviations = [float(plane.mean()) for plane in lab], [float(plane.std()) for plane in lab]
    _require_scale(np.array(REFERENCE_LAB[1]) / np.maximum(deviations, 1e-9))
    return LabFit(method, _three(means), _three(deviations))


def _require_scale(factors: Floats) -> None:
    if (factors > MAX_SCALE).any() or (factors < 1 / MAX_SCALE).any():
        raise UnusableStainError(
            f"The stain of the slide varies too little or too much to be normalised (by a factor of "
            f"{factors.flat[np.abs(np.log(factors)).argmax()]:.2g}): send `stain` with the method none."
        )


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


_FITS: Final[Mapping[str, Callable[[StainMethod, Pixels, Floats], StainFit]]] = {
    "macenko": _macenko,
    "vahadane": _vahadane,
    "reinhard": _reinhard,
}

_XYZ: Final = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
"""sRGB primaries (D65) to CIE XYZ, which is divided by the white point."""
_WHITE: Final = np.array([0.95047, 1.0, 1.08883])
_TO_XYZ: Final = (_XYZ / _WHITE[:, None]).astype(np.float32)
_FROM_XYZ: Final = (np.linalg.inv(_XYZ) * _WHITE).astype(np.float32)
_STEPS: Final = 2**14


def _linear_light() -> NDArray[np.float32]:
    value = np.arange(256) / 255
    return np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92).astype(np.float32)


def _lightness() -> NDArray[np.float32]:
    """CIE's cube root with its linear foot, in steps of 1 / 2**14 up to 2."""
    value = np.arange(2 * _STEPS + 1) / _STEPS
    return np.where(value > 0.008856, np.cbrt(value), 7.787 * value + 16 / 116).astype(np.float32)


def _gamma() -> NDArray[np.float32]:
    """Linear light to sRGB of 0 to 255, in steps of 1 / 2**14 up to 1."""
    value = np.arange(_STEPS + 1) / _STEPS
    return (255 * np.where(value > 0.0031308, 1.055 * value ** (1 / 2.4) - 0.055, 12.92 * value)).astype(
        np.float32
    )


_LINEAR: Final = _linear_light()
_LIGHTNESS: Final = _lightness()
_GAMMA: Final = _gamma()


def _lab(planes: list[Pixels]) -> list[NDArray[np.float32]]:
    """L* (0 to 100), a* and b* of red, green and blue."""
    light = [np.asarray(cv2.LUT(plane, _LINEAR), np.float32) for plane in planes]
    roots = [_looked_up(_LIGHTNESS, _dot(row, light)) for row in _TO_XYZ]
    return [116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])]


def _rgb(lab: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Red, green and blue, 0 to 255, of L*, a* and b*."""
    middle = (lab[0] + 16) / 116
    roots = [lab[1] / 500 + middle, middle, middle - lab[2] / 200]
    foot, slope, edge = np.float32(16 / 116), np.float32(7.787), np.float32(0.2068966)
    light = [np.where(root > edge, root * root * root, (root - foot) / slope) for root in roots]
    return [_looked_up(_GAMMA, _dot(row, light)) for row in _FROM_XYZ]


def _dot(row: NDArray[np.float32], planes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = planes[0] * row[0] + planes[1] * row[1] + planes[2] * row[2]
    return total


def _looked_up(table: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest entry of a table in steps of 1 / 2**14 from 0 on."""
    places = np.clip(np.rint(values * np.float32(_STEPS)), 0, len(table) - 1).astype(np.int32)
    found: NDArray[np.float32] = table[places]
    return found
