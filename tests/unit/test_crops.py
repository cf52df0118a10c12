"""Crops are cut and resized exactly as the pipeline states."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from oracles import crop_and_resize
from slidecascade.slides.crops import bounds_of, corners_of, cut


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (240, 300, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.2))


@pytest.mark.parametrize(("size_px", "out_px"), [(54, 72), (96, 96), (64, 32), (54, 54), (20, 90)])
def test_crops_equal_one_crop_at_a_time(image: np.ndarray, size_px: int, out_px: int) -> None:
    """Hundreds of crops in one call differ from cut-then-resize by rounding only, at the edge too."""
    centroids = np.random.default_rng(1).uniform([0, 0], [300, 240], (200, 2))
    margin = size_px
    padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    corners = corners_of(centroids, size_px) + margin
    crops = cut(padded, corners, size_px=size_px, height_px=out_px, width_px=out_px)

    for crop, centroid in zip(crops, centroids, strict=True):
        expected = crop_and_resize(image, centroid, size_px=size_px, height_px=out_px, width_px=out_px)
        assert np.abs(crop.astype(int) - expected).max() <= 1


def test_unscaled_crops_are_the_pixels_themselves(image: np.ndarray) -> None:
    """A 96 px crop at 96 px holds the image's own pixels."""
    crop = cut(image, corners_of(np.array([[120.0, 100.0]]), 96), size_px=96, height_px=96, width_px=96)[0]
    np.testing.assert_array_equal(crop, image[52:148, 72:168])


def test_thousands_of_crops_in_one_call(image: np.ndarray) -> None:
    """The heights OpenCV is limited to elsewhere do not show."""
    centroids = np.tile([[150.0, 120.0]], (1000, 1))
    crops = cut(image, corners_of(centroids, 54), size_px=54, height_px=72, width_px=72)
    assert crops.shape == (1000, 72, 72, 3)
    assert (crops == crops[0]).all()


@pytest.mark.parametrize(("size_px", "out_px"), [(54, 72), (50, 72), (64, 224), (96, 224), (33, 97), (200, 72)])
def test_a_crop_is_the_same_in_any_company(size_px: int, out_px: int) -> None:
    """Whatever its place among hundreds of crops, and by itself: bit for bit, for every ratio of sizes."""
    crops = np.random.default_rng(3).integers(0, 256, (300, size_px, size_px, 3), np.uint8)
    patch = crops.reshape(-1, size_px, 3)
    corners = np.stack([np.zeros(300, np.int64), np.arange(300) * size_px], axis=1)
    sizes = {"size_px": size_px, "height_px": out_px, "width_px": out_px}
    together = cut(patch, corners, **sizes)

    for some in (slice(0, 1), slice(7, 50), slice(299, 300)):
        np.testing.assert_array_equal(cut(patch, corners[some], **sizes), together[some])


def test_a_crop_outside_the_patch_is_refused(image: np.ndarray) -> None:
    """Pixels that were not read are never made up."""
    with pytest.raises(ValueError, match="outside the patch"):
        cut(image, np.array([[-7, 73]]), size_px=54, height_px=72, width_px=72)
    assert cut(image, np.zeros((0, 2), np.int64), size_px=54, height_px=72, width_px=72).shape == (0, 72, 72, 3)


def test_bounds_hold_all_crops() -> None:
    """The box to read reaches from the first crop's corner to the last crop's end."""
    centroids = np.array([[10.2, 50.0], [40.0, 20.7]])
    corners = corners_of(centroids, 54)
    box = bounds_of(corners, 54)
    assert (box.x, box.y) == tuple(corners.min(axis=0))
    assert (box.right, box.bottom) == tuple(corners.max(axis=0) + 54)
