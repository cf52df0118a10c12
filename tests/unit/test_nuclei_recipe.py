"""The nuclei recipe: crops and their targets, crops drawn beside the training, a run that was cut off."""

from itertools import islice, repeat
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade_evaluation.dsb2018 import FLUORESCENCE, NucleiImage, split_of
from slidecascade_training import nuclei
from slidecascade_training.nuclei import Trainer, drawn_ahead, learning_rate, weighted_loss
from slidecascade_training.nuclei_crops import (
    CROP_PX,
    WEIGHT_UNIT,
    Batch,
    TrainingImage,
    draw_batch,
    prepare,
    target_planes,
)


def two_touching() -> np.ndarray:
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 10:30] = 1
    labels[20:40, 30:50] = 2
    return labels


@pytest.fixture
def pool() -> list[TrainingImage]:
    labels = np.zeros((256, 256), np.int32)
    labels[40:80, 40:80], labels[100:160, 90:120] = 1, 2
    image = np.repeat((labels > 0)[..., None] * np.uint8(180) + np.uint8(20), 3, axis=2)
    return prepare([NucleiImage("made", FLUORESCENCE, image, labels)])


@pytest.fixture
def batch(pool: list[TrainingImage]) -> Batch:
    return draw_batch(pool, 2, np.random.default_rng(0))


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


def test_a_batch_holds_images_and_planes_of_one_form(batch: Batch) -> None:
    """Bytes: what processes hand over is as small as it can be."""
    assert batch.images.shape == batch.planes.shape == (2, CROP_PX, CROP_PX, 3)
    assert batch.images.dtype == batch.planes.dtype == np.uint8
    assert (batch.planes[..., 0] >= 128).any()


def test_depth_outside_the_foreground_is_not_learned(batch: Batch) -> None:
    """Whatever a warp interpolates there."""
    predicted = np.random.default_rng(0).random((2, CROP_PX, CROP_PX, 2), np.float32)
    changed = batch.planes.copy()
    changed[..., 1] = np.where(changed[..., 0] >= 128, changed[..., 1], 99)
    assert (changed != batch.planes).any()
    losses = [float(weighted_loss(planes.astype(np.float32), predicted)) for planes in (batch.planes, changed)]
    assert losses[0] == losses[1] > 0


def test_the_loss_is_least_where_the_maps_are_right(batch: Batch) -> None:
    """The truth itself, then the truth with a foreground that is too large, then noise."""
    planes = batch.planes.astype(np.float32)
    is_cell = planes[..., 0] >= 128
    depth = np.where(is_cell, planes[..., 1] / 255, 0).astype(np.float32)
    wide = cv2.dilate(np.moveaxis(is_cell.astype(np.uint8), 0, -1), np.ones((7, 7), np.uint8))
    maps = [np.stack([np.moveaxis(wide, -1, 0), depth], axis=-1), np.full((*depth.shape, 2), 0.5)]
    right, too_large, flat = (
        float(weighted_loss(planes, item.astype(np.float32)))
        for item in (np.stack([is_cell, depth], axis=-1), *maps)
    )
    assert right < too_large < flat


def test_batches_drawn_beside_the_training_are_those_of_their_steps(
    pool: list[TrainingImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is cut off after step 1 sees at step 2 what it would have seen."""
    with drawn_ahead(pool, seed=3, first=0) as batches:
        whole = list(islice(batches, 3))
    with drawn_ahead(pool, seed=3, first=2) as batches:
        later = next(batches)
    np.testing.assert_array_equal(later.images, whole[2].images)
    np.testing.assert_array_equal(later.planes, whole[2].planes)
    assert (whole[0].images != whole[1].images).any()


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    """A linear warm-up, then a cosine."""
    rates = [learning_rate(progress) for progress in np.linspace(0, 1, 200)]
    top = int(np.argmax(rates))
    assert rates[0] < rates[top] / 10
    assert all(np.diff(rates[top:]) <= 0)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


# Keras hands TensorFlow's variables to numpy in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step, the weights and the optimiser's state come from the checkpoint."""
    monkeypatch.setattr(nuclei, "SAVE_EVERY", 1)
    first = Trainer(tmp_path, (4, 6))
    first.train(repeat(batch), 2)
    again = Trainer(tmp_path)
    assert again.done == 2
    for ours, theirs in zip(again.network.get_weights(), first.network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again.train(repeat(batch), 3)
    assert again.done == 3
    assert [path.name for path in tmp_path.iterdir()] == ["network.keras"]


def test_a_folder_without_a_network_is_told(tmp_path: Path) -> None:
    """Before anything is built."""
    with pytest.raises(FileNotFoundError, match="train it first"):
        Trainer(tmp_path)


def test_an_image_stays_in_its_split() -> None:
    """The rule reads the name alone: one in five validates, one in ten of the others tunes."""
    assert split_of("0005aaaa") == "validate"
    assert split_of("0001000aff") == "tune"
    assert split_of("0001000bff") == "train"
