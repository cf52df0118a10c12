"""Stain normalisation: the fits, their oracle, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from slidecascade.errors import UnusableStainError
from slidecascade.slides.stain import (
    BLENDED_FROM,
    REFERENCE_LAB,
    REFERENCE_VECTORS,
    TISSUE_OD,
    DensityFit,
    fit_stain,
)
from slidecascade.wire import StainMethod

METHODS: tuple[StainMethod, ...] = ("macenko", "vahadane", "reinhard")
Image = NDArray[np.uint8]


def stained(
    seed: int,
    vectors: tuple[tuple[float, ...], ...] = REFERENCE_VECTORS,
    *,
    amounts: tuple[float, float] = (1.0, 1.0),
    side_px: int = 160,
) -> Image:
    """Tissue of two stains: dark spots of the first on a ground of the second, without glass."""
    rng = np.random.default_rng(seed)
    spots = cv2.GaussianBlur((rng.random((side_px, side_px)) > 0.98).astype(np.float64), (0, 0), 4)
    spots = np.minimum(1, 2 * spots / spots.max())
    first = 1.5 * amounts[0] * spots * rng.gamma(40, 1 / 40, spots.shape)
    second = amounts[1] * rng.gamma(8, 0.08, spots.shape) * (1 - 0.9 * spots)
    density = first[..., None] * np.array(vectors[0]) + second[..., None] * np.array(vectors[1])
    return np.asarray(np.clip(np.rint(240 * np.exp(-density)) - 1, 0, 255), np.uint8)


def tissue_of(image: Image) -> Image:
    """The pixels that are fitted, as an image of one column."""
    pixels = image.reshape(-1, 3)
    density = -np.log((pixels.astype(float) + 1) / 240)
    return np.asarray(pixels[(density >= TISSUE_OD).all(axis=1)][:, None])


def unblended(image: Image) -> NDArray[np.bool_]:
    return np.asarray(image.min(axis=2) <= BLENDED_FROM)


SHIFTED = ((0.48, 0.76, 0.43), (0.15, 0.84, 0.52))


def test_macenko_is_that_of_torchstain() -> None:
    """Vectors, amounts and normalised colours; torchstain truncates where colours are rounded here."""
    image = tissue_of(stained(1, SHIFTED, amounts=(0.7, 1.2)))
    fit = fit_stain("macenko", image)
    assert isinstance(fit, DensityFit)
    oracle = NumpyMacenkoNormalizer()
    expected = oracle.normalize(image, stains=False)[0]
    oracle.fit(image)

    assert np.allclose(np.array(fit.vectors).T, oracle.HERef, atol=1e-4)
    assert np.allclose(fit.strongest, oracle.maxCRef, rtol=1e-4)
    difference = fit.apply(image).astype(int) - expected
    assert np.isin(difference[unblended(image)], (0, 1)).all()


def test_reinhard_is_that_of_torchstain() -> None:
    image = tissue_of(stained(2, SHIFTED, amounts=(0.7, 1.2)))
    oracle = NumpyReinhardNormalizer()
    means, deviations = (np.array(values) for values in REFERENCE_LAB)
    oracle.target_means, oracle.target_stds = means, deviations
    expected = oracle.normalize(image)

    difference = fit_stain("reinhard", image).apply(image).astype(int) - expected
    assert np.isin(difference[unblended(image)], (0, 1)).mean() > 0.999


def test_vahadane_finds_the_stains_that_an_image_was_made_of() -> None:
    """Twice the same, whatever ran before: its only random numbers have a seed of their own."""
    image = stained(3, SHIFTED, side_px=256)
    fit = fit_stain("vahadane", image)
    np.random.default_rng().random()

    assert isinstance(fit, DensityFit)
    assert fit_stain("vahadane", image) == fit
    truth = np.array(SHIFTED) / np.linalg.norm(SHIFTED, axis=1, keepdims=True)
    angles = np.degrees(np.arccos((np.array(fit.vectors) * truth).sum(axis=1)))
    assert (angles < 5).all()


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_normalised_slides_of_one_tissue_look_alike(method: StainMethod) -> None:
    """The same tissue in other colours: the difference shrinks to less than a third."""
    one, other = stained(4), stained(4, SHIFTED, amounts=(0.7, 1.3))
    before = np.abs(one.astype(int) - other).mean()
    after = np.abs(fit_stain(method, one).apply(one).astype(int) - fit_stain(method, other).apply(other)).mean()
    assert after < before / 3


@pytest.mark.parametrize("method", METHODS)
def test_glass_stays_as_it_is(method: StainMethod) -> None:
    fit = fit_stain(method, stained(5, SHIFTED))
    glass = np.random.default_rng(0).integers(210, 256, (64, 64, 3), dtype=np.uint8)
    assert (fit.apply(glass) == glass).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_colour_of_a_pixel_does_not_depend_on_its_neighbours(method: StainMethod) -> None:
    """Bit for bit, wherever an image is cut: pieces of every length up to 40 pixels and large ones."""
    image = stained(6, SHIFTED)
    fit = fit_stain(method, image)
    whole = fit.apply(image).reshape(-1, 3)
    pixels = image.reshape(-1, 3)
    for length in (*range(1, 41), 20_001):
        assert (fit.apply(pixels[:length]) == whole[:length]).all()
        assert (fit.apply(pixels[7 : 7 + length]) == whole[7 : 7 + length]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colour", [(250, 250, 250), (0, 0, 0)])
def test_a_slide_of_one_colour_is_unusable(method: StainMethod, colour: tuple[int, int, int]) -> None:
    with pytest.raises(UnusableStainError, match="send `stain` with the method none"):
        fit_stain(method, np.full((200, 200, 3), colour, np.uint8))


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_a_slide_of_one_stain_is_unusable(method: StainMethod) -> None:
    """Grey images, and eosin without haematoxylin, have no second direction to scale."""
    rng = np.random.default_rng(7)
    amounts = rng.gamma(4, 0.3, (128, 128, 1))
    for vector in ((1.0, 1.0, 1.0), (0.4, 0.75, 0.53)):
        density = amounts * np.array(vector)
        image = np.clip(np.rint(240 * np.exp(-density)) - 1, 0, 255).astype(np.uint8)
        with pytest.raises(UnusableStainError, match="with the method none"):
            fit_stain(method, image)


@pytest.mark.parametrize("method", METHODS)
def test_real_tissue_can_be_fitted(method: StainMethod, shared_data: Path) -> None:
    """H&E of liver: haematoxylin first, which absorbs more of red."""
    files = sorted((shared_data / "liver").glob("*HE*.jpg"))
    assert files
    for file in files:
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        fit = fit_stain(method, image)
        if isinstance(fit, DensityFit):
            assert fit.vectors[0][0] > fit.vectors[1][0]
