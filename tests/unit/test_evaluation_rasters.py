"""Outlines filled: which pixels a cell has."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import oracles
from found_cells import found_cells
from slidecascade.cells import outlines
from slidecascade_evaluation.rasters import labels_from_outlines

Labels = NDArray[np.int32]


def back_and_forth(labels: Labels) -> Labels:
    """Labels ``1..N`` traced as the service does and filled again."""
    measures = outlines.measure(labels, np.zeros(labels.shape, np.uint8))
    cells = outlines.trace(labels.copy(), measures, np.ones(int(labels.max()), np.bool_))
    height, width = labels.shape
    assert len(cells) == int(labels.max())
    return labels_from_outlines(cells.vertices, cells.offsets, height_px=height, width_px=width)


def whole_cells(labels: Labels) -> Labels:
    """The largest piece of every label with its holes filled and at least 3 x 3 pixels wide, numbered anew."""
    whole = np.zeros(labels.shape, np.int32)
    count = 0
    for label in np.unique(labels[labels > 0]):
        mask = cv2.morphologyEx((labels == label).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if contours:
            count += 1
            cv2.drawContours(whole, [max(contours, key=cv2.contourArea)], 0, count, -1)
    return whole


@pytest.mark.parametrize("seed", range(4))
def test_labels_survive_their_outlines(seed: int) -> None:
    """Traced and filled again, touching cells have exactly the pixels they had."""
    labels = whole_cells(found_cells(seed)[1])
    np.testing.assert_array_equal(back_and_forth(labels), labels)


def test_thin_cells_survive_their_outlines() -> None:
    """A one-pixel spike in each direction, and a cell along the image's edge."""
    labels = np.zeros((20, 20), np.int32)
    labels[6:11, 6:11] = 1
    labels[8, 2:16] = 1
    labels[2:16, 8] = 1
    labels[19, 3:17] = 2
    labels[18, 5:9] = 2
    np.testing.assert_array_equal(back_and_forth(labels), labels)


def test_real_nuclei_survive_their_outlines(shared_data: Path) -> None:
    """Of the nuclei of ten NuCLS images, drawn by hand and with holes, all but a thousandth of the pixels."""
    lost = total = 0
    for path in sorted((shared_data / "nuclei" / "nucls").glob("*_inst.png")):
        _, dense = np.unique(np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)), return_inverse=True)
        labels = dense.astype(np.int32).reshape(256, 256)
        lost += int(((back_and_forth(labels) > 0) != (labels > 0)).sum())
        total += int((labels > 0).sum())
    assert total > 100_000
    assert lost / total < 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_a_pixel_is_in_when_its_centre_is(seed: int) -> None:
    """Any simple ring, on the lattice or off it, fills the pixels that a test of every pixel finds."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
    radii = rng.uniform(2, 14, len(angles))
    ring = np.stack([16 + radii * np.cos(angles), 12 + radii * np.sin(angles)], axis=1)
    ring = np.round(ring * 4) / 4 if seed % 2 else ring  # quarters: vertices and edges on pixel centres
    filled = labels_from_outlines(ring, np.array([0, len(ring)]), height_px=24, width_px=32)
    np.testing.assert_array_equal(filled > 0, oracles.filled_pixel_by_pixel(ring, 24, 32))


def test_the_smaller_cell_is_on_top() -> None:
    """Where rings overlap the larger one does not hide the smaller, in either order."""
    large, small = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]]), np.array([[4.0, 4], [6, 4], [6, 6], [4, 6]])
    for rings, number in (((large, small), 2), ((small, large), 1)):
        labels = labels_from_outlines(np.concatenate(rings), np.array([0, 4, 8]), height_px=10, width_px=10)
        assert (labels[4:6, 4:6] == number).all()
        assert (labels == 3 - number).sum() == 96


def test_no_outlines_give_an_empty_image() -> None:
    """An image without cells has no labels."""
    assert not labels_from_outlines(np.zeros((0, 2)), np.zeros(1, np.int64), height_px=3, width_px=4).any()
