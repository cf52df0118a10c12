"""Cells drawn over their region."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from made_analysis import CLASSES, make_analysis, make_instances
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box
from slidecascade.outputs import caption
from slidecascade.outputs.cells import overlay

PINK = (236, 190, 214)


def background(analysis: Analysis, downsample: float = 1.0) -> Any:
    """An even pink region."""
    region = analysis.region_l0
    shape = (round(region.height / downsample), round(region.width / downsample), 3)
    return np.full(shape, PINK, np.uint8)


def one_cell(class_index: int, *, x: float, y: float, radius: float) -> Analysis:
    """A single many-cornered cell in a region of 600 x 500."""
    base = make_analysis(0, region_l0=Box(1000, 2000, 600, 500))
    instances = make_instances(np.array([[x, y]]), np.array([radius]), vertices=60, wobble=0)
    unseen = np.full((1, 3), np.nan, np.float32)
    return replace(
        base,
        instances=instances.with_probabilities(unseen, unseen),
        class_index=np.array([class_index], np.int64),
    )


def changed(drawn: Any, image: Any) -> Any:
    """Which pixels of the image part were drawn on."""
    return (drawn[: image.shape[0], : image.shape[1]] != image).any(axis=2)


@pytest.mark.parametrize("downsample", [1.0, 2.0, 2.5])
def test_an_outline_lies_where_its_cell_is(downsample: float) -> None:
    """A circle around (1250, 2100) is drawn around the right pixel at any downsample, in its class colour."""
    analysis = one_cell(1, x=1250, y=2100, radius=40)
    image = background(analysis, downsample)
    drawn = overlay.draw(analysis, image, downsample=downsample)
    y, x = np.nonzero(changed(drawn, image))

    assert x.mean() == pytest.approx(250 / downsample - 0.5, abs=1)
    assert y.mean() == pytest.approx(100 / downsample - 0.5, abs=1)
    assert x.max() - x.min() == pytest.approx(80 / downsample, abs=6)
    distance = np.abs(drawn[y, x].astype(int) - CLASSES[1].color).sum(axis=1)
    assert distance.min() < 30


@pytest.mark.parametrize(("radius", "stroke_px"), [(5, 2.2), (8, 2.2), (20, 2.7), (60, 2.7)])
def test_outlines_are_thin(radius: float, stroke_px: float) -> None:
    """Ink over perimeter is the width of the stroke with its soft edges; the inside of a cell stays as it was."""
    analysis = one_cell(3, x=1300, y=2250, radius=radius)
    image = background(analysis)
    drawn = overlay.draw(analysis, image, downsample=1)[: image.shape[0], : image.shape[1]]
    ink = (drawn[:, :, 0].astype(float) - PINK[0]) / (CLASSES[3].color[0] - PINK[0])

    assert ink.sum() / (2 * np.pi * radius) == pytest.approx(stroke_px, rel=0.1)
    assert not ink[250, 300]


def test_the_image_is_left_alone_outside_outlines() -> None:
    """Nothing but outlines is drawn on the tissue, and the caller's array is not changed."""
    analysis = make_analysis(0)
    image = background(analysis)
    drawn = overlay.draw(analysis, image, downsample=1)

    assert not changed(drawn, image).any()
    assert (image == PINK).all()
    assert drawn.shape[0] > image.shape[0]
    assert (drawn[image.shape[0] :] < 128).any()


def test_every_class_colour_is_in_the_strip() -> None:
    """The legend below the image shows all classes, drawn or not."""
    drawn = overlay.draw(make_analysis(0), background(make_analysis(0)), downsample=1)
    strip = drawn[600:].reshape(-1, 3)

    for cell_class in CLASSES:
        assert (strip == cell_class.color).all(axis=1).sum() > 40


@pytest.mark.parametrize("width", [1, 100, 380, 700, 4000])
def test_any_width_gets_a_whole_strip(width: int) -> None:
    """Narrow images get white to the right; wide ones a strip of their own width; rows are added as needed."""
    analysis = make_analysis(3, region_l0=Box(0, 0, width, 50))
    drawn = overlay.draw(analysis, background(analysis), downsample=1)

    assert drawn.shape[1] == max(width, caption.MIN_WIDTH)
    assert drawn.shape[0] - 50 < 150
    assert (drawn[:50, width:] == 255).all()


def test_cells_beyond_the_region_do_no_harm() -> None:
    """An outline partly or wholly outside the picture is clipped."""
    analysis = one_cell(2, x=995, y=1700, radius=50)
    image = background(analysis)

    assert not changed(overlay.draw(analysis, image, downsample=1), image).any()


def test_an_array_that_is_not_a_picture_of_the_region_is_refused() -> None:
    """Grey, float and wrongly sized arrays are distinguished from RGB of the region."""
    analysis = make_analysis(1)
    image = background(analysis)

    for wrong in (image[:, :, 0], image.astype(np.float32), image[:, :, :1]):
        with pytest.raises(ValueError, match="uint8 RGB"):
            overlay.draw(analysis, wrong, downsample=1)
    with pytest.raises(ValueError, match="does not cover"):
        overlay.draw(analysis, image, downsample=2)


@pytest.mark.parametrize(
    ("um_per_px", "bar_um"), [(0.25, 20), (0.5, 50), (1, 100), (8, 500), (100, 10_000), (0.01, 1)]
)
def test_the_scale_bar_is_a_round_length(um_per_px: float, bar_um: float) -> None:
    """1, 2 or 5 times a power of ten, at most 120 px long."""
    assert caption.bar_um_of(caption.LONGEST_BAR_PX, um_per_px) == pytest.approx(bar_um)
