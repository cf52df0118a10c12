"""What the nash classifiers are trained on: labelled crops of rendered tissue, and their variations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from slidecascade_render.liver.crops import CELL, HEPATOCYTE, crops_of, dark_spots
from slidecascade_render.liver.hepatocytes import LEAST_STEATOTIC_FAT, MOST_STRAY_FAT, fat_shares
from slidecascade_render.liver.layout import lay_out
from slidecascade_render.liver.specimen import STEATOSIS
from slidecascade_render.liver.tissue import CLASS_NAMES, RenderedTissue, TissueOptions, render
from slidecascade_render.window import Window
from slidecascade_training.nash.variation import varied

OPTIONS = TissueOptions(
    seed=8,
    steatosis=0.4,
    ballooning=0.1,
    cell_scale=1.1,
    nuclear_density=0.4,
    large_vacuoles=0.4,
    stray_fat=0.8,
    glycogen=0.7,
    cracks=0.8,
    inflammation=2.5,
    vessels=1.4,
    sharpening=0.8,
)


@pytest.fixture(scope="module")
def tissue() -> RenderedTissue:
    return render(OPTIONS, width_px=512, height_px=512)


@pytest.mark.parametrize("seed", [8, 9])
@pytest.mark.parametrize("large_vacuoles", [0.2, 0.9])
def test_fat_decides_who_is_steatotic(seed: int, large_vacuoles: float) -> None:
    """No cell lies between the most fat of the one kind and the least fat of the other."""
    options = dataclasses.replace(OPTIONS, seed=seed, large_vacuoles=large_vacuoles)
    layout = lay_out(options, Window(0.0, 0.0, 200.0, 200.0))
    shares = fat_shares(layout.sites, layout.droplets)
    fatty = layout.sites.kind == STEATOSIS
    assert shares[fatty].min() >= LEAST_STEATOTIC_FAT
    assert 0 < shares[~fatty].max() <= MOST_STRAY_FAT


def test_every_option_keeps_windows_seamless(tissue: RenderedTissue) -> None:
    """Clefts, sharpening, other sizes and bile ducts too are functions of the place in the plane."""
    part = render(OPTIONS, x_px=150, y_px=210, width_px=200, height_px=160)
    inside = np.s_[210 : 210 + 160, 150 : 150 + 200]
    assert np.abs(part.image.astype(int) - tissue.image[inside]).max() <= 1
    assert np.array_equal(part.classes[part.nuclei], tissue.classes[tissue.nuclei[inside]])


def test_dark_spots_are_not_nuclei(tissue: RenderedTissue) -> None:
    """They keep away from every nucleus and from the edge, and are darker than what is around them."""
    spots = dark_spots(tissue).astype(int)
    assert 5 <= len(spots) <= 60
    for x, y in spots:
        assert tissue.nuclei[y - 4 : y + 5, x - 4 : x + 5].max() == 0


def test_spots_are_other_for_the_first_classifier_only(tissue: RenderedTissue) -> None:
    """The state is classified for hepatocytes only, the type for every detection."""
    cells = crops_of(tissue, CELL, 1, at_most_per_class=8)
    counts = np.bincount(cells.labels, minlength=3)
    assert cells.images.shape == (counts.sum(), 54, 54, 3)
    others = np.count_nonzero(tissue.classes == CLASS_NAMES.index("other"))
    assert 4 < counts[CELL.classes.index("Other")] <= others + 4
    hepatocytes = crops_of(tissue, HEPATOCYTE, 1, at_most_per_class=8)
    assert hepatocytes.images.shape[1:] == (96, 96, 3)
    assert np.bincount(hepatocytes.labels).max() <= 8


def test_variations_are_other_pictures_of_the_same_size_and_range(tissue: RenderedTissue) -> None:
    """A seed decides them; they stay within 0 to 255 and come at the network's input size."""
    crops = crops_of(tissue, CELL, 1, at_most_per_class=8).images
    one, same, other = (varied(crops, 72, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == (len(crops), 72, 72, 3)
    assert one.dtype == np.float32
    assert 0 <= one.min() <= one.max() <= 255
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 5
