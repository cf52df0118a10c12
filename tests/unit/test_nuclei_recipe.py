"""The nuclei recipe: crops and their targets, stages that go on from each other, a run that was cut off."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slidecascade_training import nuclei
from slidecascade_training.dsb2018 import FLUORESCENCE, NucleiImage, split_of
from slidecascade_training.nuclei import Stage, Trainer, build_network, learning_rate
from slidecascade_training.nuclei_crops import CROP_PX, WEIGHT_UNIT, Batch, draw_batch, prepare, target_planes
from slidecascade_training.widening import widened


def two_touching() -> np.ndarray:
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 10:30] = 1
    labels[20:40, 30:50] = 2
    return labels


@pytest.fixture
def batches() -> Callable[[], Batch]:
    rng = np.random.default_rng(0)
    labels = np.zeros((256, 256), np.int32)
    labels[40:80, 40:80], labels[100:160, 90:120] = 1, 2
    image = np.repeat((labels > 0)[..., None] * np.uint8(180) + np.uint8(20), 3, axis=2)
    pool = prepare([NucleiImage("made", FLUORESCENCE, image, labels)])
    drawn = draw_batch(pool, 2, rng)
    return lambda: drawn


def test_depth_is_relative_to_each_instance_and_low_where_two_touch() -> None:
    """The deepest pixel of every instance has depth 1, and the seam between two that touch is shallow."""
    foreground, depth, weight = np.moveaxis(target_planes(two_touching()), -1, 0)
    assert depth[20:40, 10:30].max() == depth[20:40, 30:50].max() == 255
    assert depth[30, 29:31].max() < 64
    assert (foreground > 0).sum() == 800
    assert weight[30, 29] == 4 * WEIGHT_UNIT


def test_the_ground_beside_a_small_instance_weighs_as_much_as_it() -> None:
    """Otherwise a network gains by drawing small instances too large."""
    labels = np.zeros((40, 40), np.int32)
    labels[10:15, 10:15] = 1
    weight = target_planes(labels)[..., 2]
    assert weight[12, 12] == weight[12, 16] > weight[12, 25] == WEIGHT_UNIT


def test_a_batch_holds_images_and_targets_of_one_form(batches: Callable[[], Batch]) -> None:
    """Depth is 0 outside the foreground, whatever a warp interpolates."""
    batch = batches()
    assert batch.images.shape == batch.targets.shape == (2, CROP_PX, CROP_PX, 3)
    assert batch.images.dtype == np.uint8
    foreground, depth = batch.targets[..., 0], batch.targets[..., 1]
    assert set(np.unique(foreground)) <= {0.0, 1.0}
    assert foreground.any()
    assert not depth[foreground == 0].any()


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    """A linear warm-up, then a cosine."""
    rates = [learning_rate(progress) for progress in np.linspace(0, 1, 200)]
    top = int(np.argmax(rates))
    assert rates[0] < rates[top] / 10
    assert all(np.diff(rates[top:]) <= 0)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_widened_network_computes_what_the_narrow_one_did() -> None:
    """Up to the noise that sets copies of a channel apart."""
    narrow = build_network((4, 6, 8))
    rng = np.random.default_rng(0)
    narrow.set_weights([np.abs(rng.normal(0.3, 0.3, w.shape)) + 0.01 for w in narrow.get_weights()])
    wide = widened(narrow, build_network((5, 9, 16)), seed=1)
    image = rng.random((1, 32, 32, 3), np.float32)
    assert wide.count_params() > 1.5 * narrow.count_params()
    np.testing.assert_allclose(wide(image).numpy(), narrow(image).numpy(), atol=0.03)


def test_networks_of_another_arrangement_are_not_widened() -> None:
    """Only the number of filters may differ."""
    with pytest.raises(ValueError, match="differ in their layers"):
        widened(build_network((4, 6)), build_network((4, 6, 8)), seed=0)


# Keras hands TensorFlow's variables to numpy in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_run_that_was_cut_off_goes_on(
    tmp_path: Path, batches: Callable[[], Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step, the weights and the optimiser's state come from the checkpoint."""
    monkeypatch.setattr(nuclei, "SAVE_EVERY", 1)
    first = Trainer(tmp_path / "stage-0.keras", Stage((4, 6), 2), lambda: build_network((4, 6)))
    first.train(batches)
    again = Trainer(
        tmp_path / "stage-0.keras", Stage((4, 6), 3), lambda: pytest.fail("there is a checkpoint to go on from")
    )
    assert again.steps == 2
    for ours, theirs in zip(again.network.get_weights(), first.network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again.train(batches)
    assert again.steps == 3
    assert [path.name for path in tmp_path.iterdir()] == ["stage-0.keras"]


def test_an_image_stays_in_its_split() -> None:
    """The rule reads the name alone: one in five validates, one in ten of the others tunes."""
    assert split_of("0005aaaa") == "validate"
    assert split_of("0001000aff") == "tune"
    assert split_of("0001000bff") == "train"
