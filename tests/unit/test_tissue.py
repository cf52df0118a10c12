"""Rendered tissue: the same plane whatever window looks at it, with truth that fits the pixels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from slidecascade_render.liver.tissue import CLASS_NAMES, RenderedTissue, TissueOptions, render

OPTIONS = TissueOptions(seed=11, steatosis=0.3, ballooning=0.2)


@pytest.fixture(scope="module")
def tissue() -> RenderedTissue:
    return render(OPTIONS, x_px=-700, y_px=5000, width_px=1200, height_px=640)


def test_equal_options_give_equal_tissue(tissue: RenderedTissue) -> None:
    """The same options and window give the same pixels and the same truth."""
    again = render(OPTIONS, x_px=-700, y_px=5000, width_px=1200, height_px=640)
    assert np.array_equal(again.image, tissue.image)
    assert np.array_equal(again.nuclei, tissue.nuclei)
    assert np.array_equal(again.keys, tissue.keys)


def test_another_seed_gives_other_tissue(tissue: RenderedTissue) -> None:
    """A seed decides everything that can be seen."""
    other = render(dataclasses.replace(OPTIONS, seed=12), x_px=-700, y_px=5000, width_px=1200, height_px=640)
    assert np.mean(other.image != tissue.image) > 0.9


@pytest.mark.parametrize("corner", [(0, 0), (313, 57), (941, 200)])
def test_a_window_equals_the_same_part_of_a_larger_window(tissue: RenderedTissue, corner: tuple[int, int]) -> None:
    """A window rendered by itself has the pixels, nuclei and classes of the plane, across the block seam too."""
    x, y = corner
    part = render(OPTIONS, x_px=-700 + x, y_px=5000 + y, width_px=230, height_px=180)
    inside = np.s_[y : y + 180, x : x + 230]
    difference = np.abs(part.image.astype(int) - tissue.image[inside])
    assert difference.max() <= 1
    assert np.array_equal(part.keys[part.nuclei], tissue.keys[tissue.nuclei[inside]])
    assert np.array_equal(part.classes[part.nuclei], tissue.classes[tissue.nuclei[inside]])


def test_a_compressed_window_equals_the_same_part_of_a_larger_window() -> None:
    """JPEG blocks lie on the grid of the plane, so compression does not depend on the window."""
    options = dataclasses.replace(OPTIONS, jpeg_quality=60, blur_um=0.4)
    whole = render(options, x_px=100, y_px=200, width_px=300, height_px=260)
    part = render(options, x_px=137, y_px=251, width_px=120, height_px=90)
    difference = np.abs(part.image.astype(int) - whole.image[51 : 51 + 90, 37 : 37 + 120])
    assert difference.max() <= 1


def test_every_label_has_one_class_and_one_centroid(tissue: RenderedTissue) -> None:
    """Labels run from 1 to n without a gap, each with a class, a centroid and a key of its own."""
    count = int(tissue.nuclei.max())
    assert np.array_equal(np.unique(tissue.nuclei), np.arange(count + 1))
    assert tissue.classes.shape == (count + 1,)
    assert tissue.centroids.shape == (count, 2)
    assert tissue.classes[0] == 0
    assert np.all((tissue.classes[1:] >= 1) & (tissue.classes[1:] < len(CLASS_NAMES)))
    assert np.unique(tissue.keys).size == count + 1


def test_a_centroid_lies_inside_its_nucleus(tissue: RenderedTissue) -> None:
    """Nuclei are compact; where another lies over one, its centroid may be covered."""
    columns, rows = np.rint(tissue.centroids).astype(int).T
    found = tissue.nuclei[rows, columns]
    assert np.mean(found == np.arange(1, tissue.classes.size)) > 0.97


def test_every_class_appears(tissue: RenderedTissue) -> None:
    """A fifth of a square millimetre of such tissue holds every kind of cell."""
    assert set(tissue.classes[1:].tolist()) == set(range(1, len(CLASS_NAMES)))


def test_fractions_of_hepatocytes_are_about_those_asked_for() -> None:
    """Over a square millimetre the share of steatotic and ballooned cells is near the options'."""
    tissue = render(TissueOptions(seed=4, mpp=1.0), width_px=1000, height_px=1000)
    counts = np.bincount(tissue.classes, minlength=len(CLASS_NAMES))[1:4]
    normal, ballooning, steatosis = counts / counts.sum()
    assert steatosis == pytest.approx(0.25, abs=0.10)
    assert ballooning == pytest.approx(0.10, abs=0.05)
    assert normal > 0.5


def test_the_same_cells_are_seen_at_another_magnification() -> None:
    """At half the resolution the same nuclei lie at half the coordinates."""
    fine = render(OPTIONS, width_px=800, height_px=800)
    coarse = render(dataclasses.replace(OPTIONS, mpp=0.5), width_px=400, height_px=400)
    shared, at_fine, at_coarse = np.intersect1d(fine.keys[1:], coarse.keys[1:], return_indices=True)
    assert shared.size > 0.95 * (fine.keys.size - 1)
    whole = np.all((fine.centroids[at_fine] > 40) & (fine.centroids[at_fine] < 760), axis=1)
    # Pixel centres sit at (x + 0.5) * mpp.
    expected = (fine.centroids[at_fine][whole] + 0.5) / 2 - 0.5
    assert np.median(np.abs(expected - coarse.centroids[at_coarse][whole])) < 0.2
    assert np.array_equal(fine.classes[1:][at_fine], coarse.classes[1:][at_coarse])


def test_nuclei_are_darker_than_their_surroundings(tissue: RenderedTissue) -> None:
    """The truth lies on the stained nuclei, not beside them."""
    grey = tissue.image.mean(axis=2)
    assert grey[tissue.nuclei > 0].mean() < grey[tissue.nuclei == 0].mean() - 50


def test_glass_is_blank_and_holds_no_nuclei() -> None:
    """With glass, some squares of 40 um are bright all over and empty, and others hold nuclei."""
    tissue = render(TissueOptions(seed=22, mpp=2.0, glass=True), width_px=300, height_px=300)
    squares = tissue.image.min(axis=2).reshape(15, 20, 15, 20).min(axis=(1, 3))
    nuclei = tissue.nuclei.reshape(15, 20, 15, 20).max(axis=(1, 3))
    blank = squares > 225
    assert 0.03 < blank.mean() < 0.9
    assert not np.any(nuclei[blank])
    assert np.mean(nuclei[~blank] > 0) > 0.8


@pytest.mark.parametrize("wrong", [{"mpp": 0.0}, {"steatosis": 0.8, "ballooning": 0.3}, {"steatosis": -0.1}])
def test_options_that_describe_no_tissue_are_refused(wrong: dict[str, Any]) -> None:
    """A magnification or a fraction out of range is a ValueError."""
    with pytest.raises(ValueError, match=r"mpp|fractions"):
        dataclasses.replace(OPTIONS, **wrong)
