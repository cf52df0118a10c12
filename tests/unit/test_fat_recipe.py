"""Rendered fat, and the recipe of the bundled network for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.areas.result import AreasResult
from slidecascade.cancellation import Control
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_render.liver.tissue import TissueOptions, render
from surveyed import png_of

FATTY = TissueOptions(seed=3, mpp=0.5, steatosis=0.8, large_vacuoles=0.9, glass=True, cracks=0.3)


def test_fat_is_white_and_inside_of_cells() -> None:
    """Where the mask is full there is next to no stain; glass, clefts and vessels, white too, are not in it."""
    tissue = render(FATTY, width_px=512, height_px=512)
    darkest = tissue.image.min(axis=2)
    assert np.percentile(darkest[tissue.fat == 255], 10) > 200
    assert 0.05 < (tissue.fat > 127).mean() < 0.5
    lean = render(
        TissueOptions(seed=3, mpp=0.5, steatosis=0, stray_fat=0, glass=True), width_px=512, height_px=512
    )
    assert not lean.fat.any()
    assert (lean.image.min(axis=2) > 220).any()


def test_fat_is_the_same_in_any_window() -> None:
    """As the pixels are."""
    whole = render(FATTY, width_px=400, height_px=300)
    part = render(FATTY, x_px=130, y_px=70, width_px=150, height_px=120)
    np.testing.assert_array_equal(part.fat, whole.fat[70:190, 130:280])


@pytest.fixture(scope="module")
def analyser() -> Iterator[Analyser]:
    analyser = Analyser(read_settings(), observer=Silent())
    yield analyser
    analyser.close()


def test_the_pipeline_measures_the_fat_of_rendered_tissue(analyser: Analyser) -> None:
    """Of a specimen it never saw: the area within a tenth, Dice above 0.9; droplets by size, with roundness."""
    tissue = render(TissueOptions(seed=3_000_001, mpp=0.5, steatosis=0.6), width_px=512, height_px=512)
    request = wire.parse_request({"pipeline": "fat", "mpp": 0.5})
    found = analyser.analyse(request, png_of(tissue.image), Control()).analysis
    assert isinstance(found, AreasResult)
    mask, truth = found.mask > 0, tissue.fat.reshape(256, 2, 256, 2).mean(axis=(1, 3)) > 127

    assert mask.sum() == pytest.approx(truth.sum(), rel=0.1)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    assert [name for name, _ in found.sizes] == ["micro", "macro"]


def test_what_is_measured_on_is_never_trained_on() -> None:
    """Seeds of training are far below those held out; tiles have vacuoles that are large enough alone."""
    pytest.importorskip("tensorflow", reason="the [train] extra is not installed")
    from slidecascade_training.fat.__main__ import TILES
    from slidecascade_training.fat.tissue import HELD_OUT, rendered
    from slidecascade_training.kidney.crops import TILE_PX

    assert TILES < HELD_OUT
    tiles = rendered(20, 3)
    assert tiles
    assert all(tile.image.shape == (TILE_PX, TILE_PX, 3) and set(np.unique(tile.mask)) <= {0, 1} for tile in tiles)
    assert any(tile.mask.any() for tile in tiles)


@pytest.mark.slow
def test_a_run_is_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of a tiny network, through threshold, figures and card to a package that loads."""
    pytest.importorskip("tensorflow", reason="the [train] extra is not installed")
    from slidecascade.models.repository import load_package
    from slidecascade_training.claim import claim
    from slidecascade_training.fat import package
    from slidecascade_training.fat.tissue import rendered
    from slidecascade_training.kidney.recipe import KidneySettings, train

    monkeypatch.setattr(package, "TILES", 3)
    settings = KidneySettings(seed=0, steps=2, batch=2, tiles=3, widths=(8, 8, 8))
    claim(tmp_path / "run", settings)
    train(rendered(20, 3), tmp_path / "run", settings)
    package.package_run(tmp_path / "run", tmp_path / "models", real={"a": 0.5})
    spec = load_package(tmp_path / "models" / package.NAME).spec
    assert (spec.head, spec.mpp) == ("semantic", 1.0)
    assert "| a | 0.5000 |" in (tmp_path / "models" / package.NAME / "README.md").read_text()
