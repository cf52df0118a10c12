"""The recipe of the bundled glomeruli network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the [train] extra is not installed")

from slidecascade.models.repository import load_package
from slidecascade_training.kidney.crops import CROP_PX, HELD_OUT, CropDraw, rendered
from slidecascade_training.kidney.recipe import KidneySettings, train


def test_a_batch_is_a_function_of_its_step() -> None:
    """The same crops for the same seed and step; others for another; masks follow their images."""
    tiles = tuple(rendered(0, 3))
    draw = CropDraw(tiles, batch=4, seed=1)
    one, again, other = draw(7), draw(7), draw(8)
    np.testing.assert_array_equal(one.images, again.images)
    np.testing.assert_array_equal(one.targets, again.targets)
    assert not np.array_equal(one.images, other.images)
    assert one.images.shape == (4, CROP_PX, CROP_PX, 3)
    assert one.targets.shape == (4, CROP_PX, CROP_PX, 1)
    assert set(np.unique(one.targets)) <= {0.0, 1.0}
    share = np.mean([draw(step).targets.mean() for step in range(6)])
    assert share == pytest.approx(np.mean([tile.mask.mean() for tile in tiles]), rel=0.6)


def test_what_was_never_scanned_holds_no_area() -> None:
    """Black rows at the top of some crops, whose mask is empty there; elsewhere no row is black."""
    tile = rendered(2, 1)[0]
    full = replace(tile, image=np.full_like(tile.image, 150), mask=np.ones_like(tile.mask))
    seen = 0
    for step in range(12):
        batch = CropDraw((full,), batch=8, seed=3)(step)
        black = batch.images.max(axis=(2, 3)) == 0
        seen += int(black.any(axis=1).sum())
        assert not batch.targets[black].any()
    assert 0 < seen < 24


def test_what_is_measured_on_is_never_trained_on() -> None:
    """Seeds of training are far below those held out."""
    assert KidneySettings(seed=0).tiles < HELD_OUT


@pytest.mark.slow
def test_a_run_is_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of a tiny network, resumed, through threshold, figures and card to a package that loads."""
    from slidecascade_training.claim import claim
    from slidecascade_training.kidney import package

    monkeypatch.setattr(package, "SECTIONS", 3)
    settings = KidneySettings(seed=0, steps=2, batch=2, tiles=3, widths=(8, 8, 8))
    claim(tmp_path / "run", settings)
    _, history = train(rendered(0, 3), tmp_path / "run", settings)
    assert history.steps == 2
    package.package_run(tmp_path / "run", tmp_path / "models", real={"a": 0.5})
    spec = load_package(tmp_path / "models" / package.NAME).spec
    assert (spec.head, spec.mpp) == ("semantic", 8.0)
    assert set(spec.accuracy) == {"dice", "iou", "precision", "recall", "object_f1"}
    card = (tmp_path / "models" / package.NAME / "README.md").read_text()
    assert "It never saw a real slide" in card
    assert "| a | 0.5000 |" in card
