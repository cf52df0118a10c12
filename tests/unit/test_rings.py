"""Outlines of label images along the edges of pixels."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.rings import Rings, trace
from toy_kinds import filled, rings_of


def labelled(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.asarray(
        cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1], np.int32
    )


def signed_area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    share=st.sampled_from([0.3, 0.6, 0.9]),
)
def test_outlines_hold_exactly_the_pixels_of_their_piece(seed: int, height: int, width: int, share: float) -> None:
    """Filled again they give the labels; the outer ring comes first, and no ring passes a corner twice."""
    labels = labelled(np.random.default_rng(seed).random((height, width)) < share)
    rings = trace(labels)

    assert len(rings) == labels.max()
    for number in range(len(rings)):
        assert (filled(rings, number, labels.shape) == (labels == number + 1)).all()
        areas = [signed_area(ring) for ring in rings_of(rings, number)]
        assert sum(areas) == (labels == number + 1).sum()
        assert areas[0] > 0
        assert all(area < 0 for area in areas[1:])
        for ring in rings_of(rings, number):
            assert len({tuple(corner) for corner in ring.tolist()}) == len(ring)


def test_an_outline_does_not_depend_on_what_is_around_it() -> None:
    """A ring begins at the same corner alone and in company."""
    labels = np.zeros((20, 20), np.int32)
    labels[5:12, 6:15] = 1
    labels[7:9, 8:10] = 0
    alone = trace(labels)
    labels[0:3, 0:3] = 2
    labels[15:, 2:9] = 3
    together = trace(labels)
    assert [ring.tolist() for ring in rings_of(alone, 0)] == [ring.tolist() for ring in rings_of(together, 0)]
    assert [len(list(rings_of(together, number))) for number in range(3)] == [2, 1, 1]


def test_nothing_has_no_outlines() -> None:
    """Blank images, and those without pixels."""
    for shape in ((4, 4), (0, 4), (4, 0)):
        assert len(trace(np.zeros(shape, np.int32))) == 0
    assert len(Rings.concatenate([])) == 0


def test_outlines_are_put_together() -> None:
    """Pieces of one and then of the other."""
    labels = labelled(np.random.default_rng(3).random((12, 12)) < 0.6)
    one, both = trace(labels), Rings.concatenate([trace(labels), trace(labels)])
    assert len(both) == 2 * len(one)
    for number in range(len(one)):
        for part in (number, number + len(one)):
            assert [ring.tolist() for ring in rings_of(both, part)] == [
                ring.tolist() for ring in rings_of(one, number)
            ]
