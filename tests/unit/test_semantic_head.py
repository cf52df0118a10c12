"""The semantic head on drawn maps whose objects are known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.heads import semantic


def decode(maps: np.ndarray, min_area_px: float = 4.0) -> np.ndarray:
    return semantic.decode(maps, foreground=0.5, min_area_px=min_area_px)


def random_map(seed: int, side_px: int = 120) -> np.ndarray:
    """Blobs of many sizes, with holes and islands in them."""
    noise = np.random.default_rng(seed).normal(0, 1, (side_px, side_px)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    grey: np.ndarray = np.clip(110 + 600 * smooth, 0, 255).astype(np.uint8)
    return grey[:, :, None]


def test_pieces_are_objects_and_specks_are_none() -> None:
    """Three pieces above the threshold, of which one is too small; corners connect."""
    maps = np.zeros((20, 20, 1), np.uint8)
    maps[1:5, 1:5] = 128
    maps[5:8, 5:8] = 255
    maps[12:18, 12:18] = 200
    maps[1, 15] = 255
    maps[10:12, 1:9] = 127
    labels = decode(maps)
    assert labels.dtype == np.int32
    assert np.bincount(labels.ravel())[1:].tolist() == [25, 36]


def test_holes_are_filled() -> None:
    """A ring is a disc; a bay that is open stays open."""
    maps = np.full((12, 26, 1), 0, np.uint8)
    maps[2:10, 2:10] = 255
    maps[4:8, 4:8] = 0
    maps[2:10, 14:22] = 255
    maps[2:6, 17:19] = 0
    assert np.bincount(decode(maps).ravel())[1:].tolist() == [64, 56]


def test_nothing_is_nothing() -> None:
    assert not decode(np.zeros((8, 9, 1), np.uint8)).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 40))
def test_a_window_has_the_objects_it_shows_whole(seed: int, left: int, top: int) -> None:
    """Every object that does not reach the window's sides is the same there as in the whole map."""
    maps, window = random_map(seed), np.s_[top : top + 80, left : left + 80]
    whole, seen = decode(maps)[window], decode(np.ascontiguousarray(maps[window]))
    for ours, theirs in ((seen, whole), (whole, seen)):
        sides = np.concatenate([ours[0], ours[-1], ours[:, 0], ours[:, -1]])
        for number in np.setdiff1d(np.unique(ours), [0, *sides]):
            other = theirs[ours == number]
            assert other[0] > 0
            assert (other == other[0]).all()
            assert (theirs == other[0]).sum() == len(other)


@pytest.mark.parametrize("maps", [np.zeros((8, 8, 2), np.uint8), np.zeros((8, 8, 1), np.float32)])
def test_other_maps_are_refused(maps: np.ndarray) -> None:
    """Two maps or floats are another head's."""
    with pytest.raises(ValueError, match="semantic head wants"):
        decode(maps)
