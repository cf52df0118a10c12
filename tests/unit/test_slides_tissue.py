"""The glass test: nothing with a nucleus is glass, and every tile sees the same blocks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.geometry import Box
from slidecascade.slides.slide import Slide
from slidecascade.slides.source import Rgb
from slidecascade.slides.tissue import BLOCK_PX, MARGIN_PX, glass_blocks, is_dark_field, tissue_blocks
from slidecascade.slides.upload import RegionImage, decode_image
from slidecascade.slides.view import SlideView
from slidecascade_render.liver.tissue import TissueOptions, render

GLASS, EOSIN, GREY = (242, 241, 244), (225, 170, 205), (200, 200, 200)


def plain(colour: tuple[int, int, int], height: int = 64, width: int = 80) -> Rgb:
    return np.full((height, width, 3), colour, np.uint8)


def image(path: Path) -> Rgb:
    return decode_image(path.read_bytes(), max_px=10**8).pixels


def whole_blocks(pixels: Rgb) -> Rgb:
    height, width = (side // BLOCK_PX * BLOCK_PX for side in pixels.shape[:2])
    return pixels[:height, :width]


def centroids(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """``(N, 2)`` mean x and y of the pixels of each label."""
    y, x = np.nonzero(labels)
    owner = labels[y, x]
    sizes = np.bincount(owner)
    present = sizes > 0
    return np.stack([np.bincount(owner, values)[present] / sizes[present] for values in (x, y)], axis=1)


def on_tissue(pixels: Rgb, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    blocks = tissue_blocks(whole_blocks(pixels), dark_field=False)
    columns, rows = (points // BLOCK_PX).astype(np.int64).T
    found: NDArray[np.bool_] = blocks[np.minimum(rows, len(blocks) - 1), np.minimum(columns, blocks.shape[1] - 1)]
    return found


def test_glass_is_bright_and_colourless() -> None:
    """White, grey-white and blank scans are glass; stain, shade and vivid light are not."""
    assert glass_blocks(plain(GLASS)).all()
    assert glass_blocks(plain((255, 255, 255))).all()
    assert not glass_blocks(plain(EOSIN)).any()
    assert not glass_blocks(plain(GREY)).any()
    assert not glass_blocks(plain((255, 230, 220))).any()


def test_tissue_reaches_two_blocks_further() -> None:
    """What is within two blocks of a stained block is kept with it."""
    patch = plain(GLASS, 15 * 8, 15 * 8)
    patch[7 * 8 : 8 * 8, 7 * 8 : 8 * 8] = EOSIN

    blocks = tissue_blocks(patch, dark_field=False)

    expected = np.zeros((15, 15), np.bool_)
    expected[5:10, 5:10] = True
    assert np.array_equal(blocks, expected)


def test_a_dark_field_image_has_no_glass() -> None:
    """Light on black: bright blocks are signal, and nothing is skipped."""
    patch = plain((0, 0, 0))
    patch[16:32, 16:32] = 255

    assert is_dark_field(patch)
    assert not is_dark_field(plain(GLASS))
    assert not is_dark_field(plain(EOSIN))
    assert tissue_blocks(patch, dark_field=True).all()


@pytest.mark.parametrize("shape", [(63, 80), (64, 81)])
def test_a_patch_is_whole_blocks(shape: tuple[int, int]) -> None:
    """A patch that would shift the blocks is a mistake of the caller."""
    with pytest.raises(ValueError, match="8 x 8 blocks"):
        tissue_blocks(plain(GLASS, *shape), dark_field=False)


SCENE = np.asarray(
    cv2.resize(np.random.default_rng(5).integers(150, 256, (11, 13, 3), np.uint8), (203, 171)), np.uint8
)


@settings(max_examples=100, deadline=None)
@given(
    *(st.integers(-2, 20) for _ in range(2)), *(st.integers(1, 12) for _ in range(2)), st.sampled_from([1, 1.7, 2])
)
def test_a_tile_sees_the_blocks_of_the_whole_region(
    column: int, row: int, columns: int, rows: int, ratio: float
) -> None:
    """With the margin around it, a tile's mask is the region's mask, at the mirrored edge of the region too."""
    view = SlideView(RegionImage(SCENE[:171, :203]), mpp_l0=0.25)
    grid = view.grid(0.25 * ratio)
    everything = Box(-10 * 8, -10 * 8, 50 * 8, 50 * 8)
    whole = tissue_blocks(view.read(grid, everything), dark_field=False)
    tile = Box(column * 8, row * 8, columns * 8, rows * 8)

    seen = tissue_blocks(view.read(grid, tile.inflated(MARGIN_PX)), dark_field=False)

    inner = seen[2:-2, 2:-2]
    assert np.array_equal(inner, whole[row + 10 : row + 10 + rows, column + 10 : column + 10 + columns])


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_rendered_nuclei_are_on_tissue(mpp: float) -> None:
    """No nucleus of rendered liver, steatosis included, is classified as glass."""
    tissue = render(TissueOptions(seed=3, mpp=mpp), width_px=512, height_px=512)

    assert not is_dark_field(tissue.image)
    assert on_tissue(tissue.image, centroids(tissue.nuclei)).all()


def test_real_nuclei_are_on_tissue(shared_data: Path) -> None:
    """No annotated nucleus of the NuCLS breast images is classified as glass."""
    for labels_path in sorted((shared_data / "nuclei" / "nucls").glob("*_inst.png")):
        labels = np.asarray(cv2.imread(str(labels_path), cv2.IMREAD_UNCHANGED), np.int64)
        pixels = image(labels_path.with_name(labels_path.name.replace("_inst", "")))
        assert on_tissue(pixels, centroids(labels)).all()


@pytest.mark.parametrize(
    ("name", "least", "most"), [("gtex_tile03_HE.jpg", 0.86, 0.92), ("gtex_tile01_HE.jpg", 0.99, 1.0)]
)
def test_liver_is_distinguished_from_glass(shared_data: Path, name: str, least: float, most: float) -> None:
    """Blank glass beside a liver biopsy is glass; heavy steatosis, half of it white, is tissue."""
    pixels = image(shared_data / "liver" / name)

    assert not is_dark_field(pixels)
    assert least <= tissue_blocks(pixels, dark_field=False).mean() <= most


def test_the_empty_part_of_a_slide_is_glass(shared_data: Path) -> None:
    """Of the skin section on CMU-1-Small-Region about 43 % of the area is tissue; its corners are not."""
    slide = Slide.open(shared_data / "slides" / "CMU-1-Small-Region.svs")
    blocks = tissue_blocks(slide.read_level(0, Box(0, 0, 2216, 2960)), dark_field=False)

    assert 0.40 < blocks.mean() < 0.46
    assert not blocks[-100:, :20].any()
    assert not blocks[:50, -60:].any()


def test_fluorescence_is_dark_field_and_stained_tissue_is_not(shared_data: Path) -> None:
    """Every kind of image of the Data Science Bowl is distinguished by its median."""
    folder = shared_data / "nuclei" / "dsb2018"
    rows = [line.split(",") for line in (folder / "index.csv").read_text().splitlines()[1:]]
    for kind in ("fluorescence", "brightfield-colour", "brightfield-grey"):
        stems = [row[0] for row in rows if row[2] == kind]
        for stem in stems[:: max(1, len(stems) // 12)]:
            assert is_dark_field(image(folder / f"{stem}.png")) == (kind == "fluorescence"), stem
