"""Label images become cells with outlines."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from oracles import rings_one_by_one
from slidecascade.cells.instances import Instances
from slidecascade.cells.outlines import measure, trace


def _ellipses() -> np.ndarray:
    labels = np.zeros((300, 400), np.int32)
    number = 0
    for y in range(25, 290, 42):
        for x in range(25, 390, 46):
            number += 1
            cv2.ellipse(labels, (x, y), (8 + number % 11, 6 + number % 7), number * 13 % 180, 0, 360, number, -1)
    return labels


def _traced(labels: np.ndarray, keep: np.ndarray | None = None) -> Instances:
    measures = measure(labels, np.full(labels.shape, 204, np.uint8))
    everything = np.ones(len(measures.areas), np.bool_)
    return trace(labels.copy(), measures, everything if keep is None else keep)


def test_outlines_cover_the_masks_they_came_from() -> None:
    """An outline filled again is the mask: IoU of every cell is at least 0.93, and its area is right to 5 %."""
    labels = _ellipses()
    cells = _traced(labels)

    assert len(cells) == labels.max()
    for index in range(len(cells)):
        ring = cells.vertices[cells.offsets[index] : cells.offsets[index + 1]]
        # Pixel centres are half a pixel off the corner lattice; 16 subpixels to keep the fraction.
        filled = np.zeros(labels.shape, np.uint8)
        cv2.fillPoly(filled, [np.round((ring - 0.5) * 16).astype(np.int32)], 1, shift=4)
        mask = labels == index + 1
        assert (filled.astype(bool) & mask).sum() / (filled.astype(bool) | mask).sum() >= 0.93
        assert abs(cv2.contourArea(ring.astype(np.float32)) / mask.sum() - 1) <= 0.05
        assert cells.areas[index] == mask.sum()


def test_the_fast_rings_are_those_of_one_cell_at_a_time() -> None:
    """One pass over the label image finds the ring that tracing each mask alone finds."""
    labels = _ellipses()
    labels[0:9, 0:9] = labels.max() + 1  # touches the border
    labels[100:112, 0:4] = labels.max() + 1
    labels[100:112, 4:8] = labels.max() + 1  # touches its neighbour
    labels[200:212, 380:392] = labels.max() + 1
    labels[205:207, 385:387] = 0  # a hole
    cells = _traced(labels)

    for index, expected in enumerate(rings_one_by_one(labels)):
        ring = cells.vertices[cells.offsets[index] : cells.offsets[index + 1]]
        assert len(ring) == len(expected)
        assert np.abs(ring - (expected + 0.5)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("seed", range(60))
def test_cells_at_the_border_are_traced_like_others(seed: int) -> None:
    """Random blocks, most of them cut by the image's border: rings are those of one cell at a time."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((rng.integers(8, 40), rng.integers(8, 40)), np.int32)
    for number in range(1, 12):
        y, x = rng.integers(-3, labels.shape[0]), rng.integers(-3, labels.shape[1])
        labels[max(y, 0) : y + 6, max(x, 0) : x + 6] = number
    # What another block has cut in two is left out: of two rings of one length either may be taken.
    whole = [
        number for number in range(1, 12) if cv2.connectedComponents((labels == number).astype(np.uint8))[0] == 2
    ]
    labels = np.where(np.isin(labels, whole), labels, 0)
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
    cells = _traced(labels)

    expected = [ring for ring in rings_one_by_one(labels) if len(ring) >= 3]
    assert len(cells) == len(expected)
    for index, ring in enumerate(expected):
        traced = cells.vertices[cells.offsets[index] : cells.offsets[index + 1]]
        assert len(traced) == len(ring)
        assert np.abs(traced - (ring + 0.5)).max() <= 0.5 + 1e-9


def test_only_kept_cells_are_traced() -> None:
    """Cells that are not kept vanish; the others keep their order and centroids."""
    labels = _ellipses()
    keep = np.arange(labels.max()) % 3 == 0
    cells = _traced(labels, keep)

    assert len(cells) == keep.sum()
    np.testing.assert_array_equal(cells.centroids, _traced(labels).centroids[keep])
    np.testing.assert_allclose(cells.scores, 0.8, atol=1e-6)


def test_an_empty_image_has_no_cells() -> None:
    """No labels, no cells, no error."""
    assert len(_traced(np.zeros((16, 16), np.int32))) == 0


def test_centroids_lie_on_the_corner_lattice() -> None:
    """A single pixel's centroid is its centre, half a pixel from its corner."""
    labels = np.zeros((4, 4), np.int32)
    labels[2, 1] = 1
    measures = measure(labels, np.full((4, 4), 51, np.uint8))

    assert measures.centroids.tolist() == [[1.5, 2.5]]
    assert measures.areas.tolist() == [1]
    assert measures.scores.tolist() == [np.float32(0.2)]
