"""Rendered kidney: windows fit together, the mask is that of the glomeruli, sections differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest

from slidecascade_render.kidney.bodies import Grain, Paint, aggregate, glomerulus, vessel
from slidecascade_render.kidney.section import draw
from slidecascade_render.kidney.slides import write_slide
from slidecascade_render.kidney.tissue import RenderedKidney, render, slit
from slidecascade_render.kidney.tubules import cells


def window(seed: int, x: int, y: int, width: int, height: int, mpp: float = 8.0) -> RenderedKidney:
    return render(seed, mpp=mpp, x_px=x, y_px=y, width_px=width, height_px=height)


@pytest.mark.parametrize(("seed", "mpp"), [(0, 8.0), (2, 8.0), (11, 4.0), (4, 2.0)])
def test_windows_of_a_plane_fit_together(seed: int, mpp: float) -> None:
    """Pixels and mask are functions of the place, negative places included."""
    whole = window(seed, -40, 30, 160, 120, mpp)
    part = window(seed, 20, 60, 64, 48, mpp)
    assert np.abs(whole.image[30:78, 60:124].astype(int) - part.image).max() <= 1  # the last bit of a blur
    np.testing.assert_array_equal(whole.mask[30:78, 60:124], part.mask)


def test_glomeruli_are_of_plausible_size_and_in_the_mask() -> None:
    """Between 60 and 280 um wide where whole, in some sections many and in some none."""
    counts, widths = [], []
    for seed in range(12):
        mask = window(seed, seed * 4099, 0, 192, 192).mask
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        counts.append(count - 1)
        for x, y, width, height, area in stats[1:].tolist():
            if x > 0 and y > 0 and x + width < 192 and y + height < 192 and area > 60:
                widths.append(8.0 * max(width, height))
    assert max(counts) > 15
    assert min(counts) == 0
    assert 60 < np.median(widths) < 220


def body(seed: int, name: str, **chances: float) -> Paint:
    """A body of 70 um in the middle of 200 x 200 pixels of 1 um, its uniform numbers one half but for some."""
    middle = np.arange(-100, 100, dtype=np.float32) + 0.5
    across, down = middle[None, :], middle[:, None]
    numbers = np.full(20, 0.5)
    for index, value in chances.items():
        numbers[int(index.removeprefix("n"))] = value
    fine, coarse = np.random.default_rng(seed).uniform(-1, 1, (2, 200, 200)).astype(np.float32)
    if name == "glomerulus":
        places = np.broadcast_to(middle / 20, (200, 200)).astype(np.float32)
        grain = Grain(fine, coarse, cells(seed, 211, places, np.ascontiguousarray(places.T)))
        section = replace(draw(seed), closed=0.5, sclerosed=0.2, space_um=10.0)
        return glomerulus(across, down, 70.0, numbers, section, grain)
    return {"aggregate": aggregate, "vessel": vessel}[name](across, down, 70.0, numbers, fine, coarse)


def test_only_glomeruli_that_are_not_sclerosed_have_a_depth() -> None:
    """Sclerosed ones, vessels and aggregates of lymphocytes look round as well, and are not to be found."""
    assert (body(3, "glomerulus").depth_um > 0).sum() > 10_000
    assert (body(3, "glomerulus", n12=0.1).depth_um > 0).sum() == 0
    for name in ("aggregate", "vessel"):
        found = body(3, name)
        assert (found.depth_um > 0).sum() == 0
        assert found.alpha.max() > 0.5


def test_a_tuft_fills_its_capsule_or_leaves_a_space_and_is_lobulated() -> None:
    """A closed one has nuclei up to its wall, an open one a pale ring; between lobules there is less of them."""
    open_one, closed = body(5, "glomerulus", n18=0.9), body(5, "glomerulus", n18=0.1)
    ring = (open_one.depth_um > 8) & (open_one.depth_um < 14)
    assert open_one.haematoxylin[ring].mean() < 0.5 * closed.haematoxylin[ring].mean()
    centre = closed.depth_um > 20
    faint = body(5, "glomerulus", n18=0.1, n15=0.0).haematoxylin[centre]
    clefts = body(5, "glomerulus", n18=0.1, n15=1.0).haematoxylin[centre]
    assert clefts.std() / clefts.mean() > 1.2 * faint.std() / faint.mean()


def test_lumens_are_round_or_slits() -> None:
    """A slit is longer than wide: what is near its middle along it is far aside of it."""
    u, v = np.meshgrid(np.linspace(0, 4, 200), np.linspace(0, 4, 200))
    found = cells(1, 201, u.astype(np.float32), v.astype(np.float32))
    np.testing.assert_allclose(slit(found, 0.0), found.nearest, atol=1e-5)
    ratio = slit(found, 1.0) / np.maximum(found.nearest, 1e-6)
    assert ratio.min() < 0.6
    assert ratio.max() > 1.6


def test_sections_differ_in_stain_and_a_seed_has_one() -> None:
    """Drawn from the seed alone."""
    one, same, other = draw(5), draw(5), draw(6)
    assert (one.densities == same.densities).all()
    assert one.tubule_um == same.tubule_um
    assert not np.allclose(one.densities, other.densities)
    colours = [window(seed, 0, 0, 96, 96).image.reshape(-1, 3).mean(axis=0) for seed in (1, 4, 7)]
    assert min(np.abs(colours[0] - colours[1]).max(), np.abs(colours[1] - colours[2]).max()) > 5


def test_a_slide_of_kidney_is_opened(tmp_path: Path) -> None:
    """With its pixel size, and the plane's pixels but for JPEG."""
    write_slide(tmp_path / "kidney.tiff", 4, 700, 300, mpp=8.0)
    with openslide.OpenSlide(tmp_path / "kidney.tiff") as slide:
        assert slide.dimensions == (700, 300)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(8.0)
        shown = np.asarray(slide.read_region((64, 32), 0, (128, 128)))[:, :, :3]
    assert np.abs(shown.astype(int) - window(4, 64, 32, 128, 128).image).mean() < 6
