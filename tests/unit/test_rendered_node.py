"""Rendered lymph nodes: seamless, with an exact mask, and of many looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slidecascade_render.lymph.contexts import contexts_of, random_node, random_options
from slidecascade_render.lymph.node import main, render
from slidecascade_render.lymph.slides import write_mask, write_slide
from slidecascade_render.lymph.specimen import NodeOptions

TUMOUR = NodeOptions(seed=4, mpp=0.5, tumour=0.9, edge=2.0)


def test_a_window_is_the_same_part_of_a_larger_one() -> None:
    """Pixels and mask, wherever the window begins; compression included."""
    options = NodeOptions(seed=4, mpp=0.5, tumour=0.9, jpeg_quality=70, sharpening=0.5)
    whole = render(options, width_px=400, height_px=300)
    part = render(options, x_px=130, y_px=90, width_px=160, height_px=120)
    np.testing.assert_array_equal(part.image, whole.image[90:210, 130:290])
    np.testing.assert_array_equal(part.tumour, whole.tumour[90:210, 130:290])


def test_tumour_looks_unlike_its_surroundings() -> None:
    """Its nuclei are larger: less of it is as dark as lymphocytes are."""
    node = render(replace(TUMOUR, tumour=0.6), width_px=1500, height_px=1000)
    assert 0.1 < node.tumour.mean() < 0.95
    dark = node.image.min(axis=2) < 90
    assert dark[node.tumour].mean() < dark[~node.tumour].mean()


def test_a_node_without_tumour_has_none() -> None:
    """Nowhere, whatever the seed."""
    for seed in range(3):
        options = NodeOptions(seed=seed, mpp=1.0, tumour=0.0, single_cells=1.0)
        assert not render(options, width_px=400, height_px=400).tumour.any()


@pytest.mark.parametrize("wrong", [{"mpp": 0.01}, {"tumour": 1.2}])
def test_impossible_options_are_rejected(wrong: dict[str, float]) -> None:
    """By name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NodeOptions(**wrong)  # type: ignore[arg-type]


def test_contexts_are_labelled_by_their_centre() -> None:
    """Both labels are there over a few nodes; equal seeds give equal contexts; fine and coarse agree in size."""
    labels = []
    for seed in range(6):
        node = random_node(seed, fine=False)
        found = contexts_of(node, seed, fine=False, side_px=50, at_most_per_class=4)
        again = contexts_of(random_node(seed, fine=False), seed, fine=False, side_px=50, at_most_per_class=4)
        np.testing.assert_array_equal(found.images, again.images)
        assert found.images.shape[1:] == (50, 50, 3)
        labels += found.labels.tolist()
        if not random_options(seed).tumour:
            assert not found.labels.any()
    assert set(labels) == {0, 1}


def test_slides_and_masks_are_of_one_size(tmp_path: Path) -> None:
    """OpenSlide reads both; the mask is white where the node's tumour is."""
    openslide = pytest.importorskip("openslide")
    write_slide(tmp_path / "a.tiff", TUMOUR, 700, 500)
    write_mask(tmp_path / "a_mask.tif", TUMOUR, 700, 500)
    node = render(TUMOUR, width_px=700, height_px=500)
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide, openslide.OpenSlide(tmp_path / "a_mask.tif") as mask:
        assert slide.dimensions == mask.dimensions == (700, 500)
        grey = np.asarray(mask.read_region((0, 0), 0, (700, 500)))[:, :, 0]
    assert ((grey > 127) == node.tumour).mean() > 0.999


def test_a_picture_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line."""
    assert main([str(tmp_path / "a.png"), "--width", "60", "--height", "50"]) == 0
    assert "60 x 50 px" in capsys.readouterr().out
