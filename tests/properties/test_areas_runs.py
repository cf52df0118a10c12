"""Runs of masks: the same pixels, areas, outlines and run lengths as the whole mask gives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.areas.runlengths import begins_of, decode, encode
from slidecascade.areas.runs import Runs, outlines
from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Box
from slidecascade.rings import trace


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    return np.asarray(rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.6, 0.9, 1.0])), np.bool_)


def slow_encoding(mask: NDArray[np.bool_]) -> str:
    """Pixel by pixel down the columns."""
    numbers: list[int] = []
    before = False
    for place, value in enumerate(mask.T.ravel().tolist(), start=1):
        if value and not before:
            numbers += [place, 0]
        if value:
            numbers[-1] += 1
        before = value
    return " ".join(map(str, numbers))


def encoded(runs: Runs, width_px: int, height_px: int, strip_px: int) -> str:
    """The encoding, strip by strip."""
    strips = (runs.within(left, left + strip_px) for left in range(0, width_px, strip_px))
    return b"".join(
        encode(begins_of(each.columns, each.tops, each.bottoms, height_px) for each in strips)
    ).decode()


@settings(max_examples=150, deadline=None)
@given(mask=masks(), strip_px=st.integers(1, 12))
def test_run_lengths_are_those_of_the_naive_encoder(mask: NDArray[np.bool_], strip_px: int) -> None:
    """In strips of any width; and they decode to the same pixels."""
    height, width = mask.shape
    text = slow_encoding(mask)
    assert encoded(Runs.of_labels(mask.astype(np.int32)), width, height, strip_px) == text
    again = decode(text, width_px=width, height_px=height, name="A")
    np.testing.assert_array_equal(again.painted(Box(0, 0, width, height)), mask)


@settings(max_examples=100, deadline=None)
@given(mask=masks(), x=st.integers(0, 9), y=st.integers(0, 9))
def test_areas_and_outlines_are_those_of_the_whole_mask(mask: NDArray[np.bool_], x: int, y: int) -> None:
    """Connected by sides, holes included, wherever the mask lies."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    areas, number = Runs.of_labels(mask.astype(np.int32), x=x, y=y).components()
    assert number == count - 1
    rings = outlines(areas, number)
    shown = np.zeros(mask.shape, np.int32)
    for index in range(number):
        pixels = areas.take(areas.labels == index).painted(Box(x, y, mask.shape[1], mask.shape[0]))
        assert len(np.unique(labels[pixels])) == 1
        assert pixels.sum() == areas.pixels(number)[index]
        shown[pixels] = index + 1
    assert ((shown > 0) == mask).all()
    expected = trace(shown).transformed(scale=1.0, shift_x=x, shift_y=y)
    for name in ("vertices", "ring_offsets", "piece_offsets"):
        np.testing.assert_array_equal(getattr(rings, name), getattr(expected, name))


@settings(max_examples=100, deadline=None)
@given(mask=masks(), cut=st.integers(1, 20))
def test_parts_of_a_mask_are_joined_to_its_runs(mask: NDArray[np.bool_], cut: int) -> None:
    """Cut across at any row, the runs of both parts merge to those of the whole."""
    whole = Runs.of_labels(mask.astype(np.int32))
    parts = [Runs.of_labels(part.astype(np.int32), y=y) for part, y in ((mask[:cut], 0), (mask[cut:], cut))]
    joined = Runs.concatenate(*parts).merged()
    for name in ("columns", "tops", "bottoms", "labels"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_areas_are_outlined_in_several_atlases(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside the others is outlined after them, a large area by itself."""
    monkeypatch.setattr("slidecascade.areas.runs.ATLAS_PX", 200)
    mask = np.zeros((60, 60), np.uint8)
    for place in range(2, 55, 9):
        cv2.circle(mask, (place, place), 3, 1, -1)
    mask[40:58, 2:30] = 1
    areas, number = Runs.of_labels(mask.astype(np.int32)).components()
    shown = np.zeros(mask.shape, np.int32)
    for index in range(number):
        shown[areas.take(areas.labels == index).painted(Box(0, 0, 60, 60))] = index + 1
    np.testing.assert_array_equal(outlines(areas, number).vertices, trace(shown).vertices)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3", "not pairs of start and length"),
        ("1 x", "not a whole number"),
        ("0 3", "at least 1"),
        ("3 0", "at least 1"),
        ("1 5 4 2", "overlap"),
        ("9 2 1 2", "not in order"),
        ("95 7", "another image"),
        ("1 99999999999999999999999", "not a whole number"),
    ],
)
def test_run_lengths_that_cannot_be_are_rejected(text: str, reason: str) -> None:
    """One sentence that names the mask."""
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        decode(text, width_px=10, height_px=10, name="slide-7")
    assert "slide-7" in str(caught.value)
