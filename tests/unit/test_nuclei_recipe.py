"""The nuclei recipe: crops and their targets, crops drawn beside the training, a run that was cut off."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade_evaluation.dsb2018 import FLUORESCENCE, NucleiImage, split_of
from slidecascade_training.claim import read_claim
from slidecascade_training.nuclei import recipe as nuclei_recipe
from slidecascade_training.nuclei.__main__ import main
from slidecascade_training.nuclei.crops import CropDraw, TrainingImage, prepare
from slidecascade_training.nuclei.network import weighted_loss
from slidecascade_training.nuclei.recipe import NucleiSettings, settings_of, train, trained
from slidecascade_training.nuclei.staining import CROP_PX
from slidecascade_training.nuclei.targets import WEIGHT_UNIT, target_planes
from slidecascade_training.prefetch import Batch, DrawBatch, prefetched


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
    return CropDraw(tuple(pool), 2, 0)(0)


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
    assert batch.images.shape == batch.targets.shape == (2, CROP_PX, CROP_PX, 3)
    assert batch.images.dtype == batch.targets.dtype == np.uint8
    assert (batch.targets[..., 0] >= 128).any()


def test_depth_outside_the_foreground_is_not_learned(batch: Batch) -> None:
    """Whatever a warp interpolates there."""
    predicted = np.random.default_rng(0).random((2, CROP_PX, CROP_PX, 2), np.float32)
    changed = batch.targets.copy()
    changed[..., 1] = np.where(changed[..., 0] >= 128, changed[..., 1], 99)
    assert (changed != batch.targets).any()
    losses = [float(weighted_loss(planes.astype(np.float32), predicted)) for planes in (batch.targets, changed)]
    assert losses[0] == losses[1] > 0


def test_the_loss_is_least_where_the_maps_are_right(batch: Batch) -> None:
    """The truth itself, then the truth with a foreground that is too large, then noise."""
    planes = batch.targets.astype(np.float32)
    is_cell = planes[..., 0] >= 128
    depth = np.where(is_cell, planes[..., 1] / 255, 0).astype(np.float32)
    wide = cv2.dilate(np.moveaxis(is_cell.astype(np.uint8), 0, -1), np.ones((7, 7), np.uint8))
    maps = [np.stack([np.moveaxis(wide, -1, 0), depth], axis=-1), np.full((*depth.shape, 2), 0.5)]
    right, too_large, flat = (
        float(weighted_loss(planes, item.astype(np.float32)))
        for item in (np.stack([is_cell, depth], axis=-1), *maps)
    )
    assert right < too_large < flat


@pytest.mark.parametrize("in_processes", [True, False])
def test_batches_drawn_ahead_are_those_of_their_steps(pool: list[TrainingImage], in_processes: bool) -> None:
    """A run that is cut off after step 1 sees at step 2 what it would have seen."""
    draw = CropDraw(tuple(pool), 2, 3)
    with prefetched(draw, stop=3, in_processes=in_processes) as batches:
        whole = [batches(step) for step in range(3)]
    with prefetched(draw, stop=3, in_processes=in_processes) as batches:
        later = batches(2)
    np.testing.assert_array_equal(later.images, whole[2].images)
    np.testing.assert_array_equal(later.targets, whole[2].targets)
    np.testing.assert_array_equal(later.images, draw(2).images)
    assert (whole[0].images != whole[1].images).any()


@pytest.mark.slow
def test_an_interrupted_run_resumes(
    tmp_path: Path, pool: list[TrainingImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its second epoch and begun again, it ends with the same weights, bit for bit."""
    monkeypatch.setattr(nuclei_recipe, "EPOCH_STEPS", 1)
    monkeypatch.setattr(nuclei_recipe, "prefetched", _in_this_process)
    settings = settings_of("", seed=1, steps=3, batch=2, widths=(4, 6))
    whole, history = train(pool, tmp_path / "whole", settings)
    assert history.steps == 3
    assert trained(tmp_path / "whole", settings)[1] == history
    with monkeypatch.context() as patched:
        patched.setattr(nuclei_recipe, "prefetched", partial(_in_this_process, fails_at=1))
        with pytest.raises(InterruptedError):
            train(pool, tmp_path / "cut", settings)
    assert trained(tmp_path / "cut", settings)[1].steps == 1
    again, history = train(pool, tmp_path / "cut", settings)
    assert history.steps == 3
    for ours, theirs in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@contextmanager
def _in_this_process(
    draw: DrawBatch, *, stop: int, in_processes: bool, fails_at: int | None = None
) -> Iterator[DrawBatch]:
    assert in_processes

    def drawn(step: int) -> Batch:
        assert step < stop
        if step == fails_at:
            raise InterruptedError
        return draw(step)

    yield drawn


def test_an_image_stays_in_its_split() -> None:
    """The rule reads the name alone: one in five validates, one in ten of the others tunes."""
    assert split_of("0005aaaa") == "validate"
    assert split_of("0001000aff") == "tune"
    assert split_of("0001000bff") == "train"


def test_a_command_stops_at_its_limit_and_the_next_one_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, on a set of four images: a limit that is over at once, then none."""
    monkeypatch.setattr(nuclei_recipe, "prefetched", _in_this_process)
    data, rows = tmp_path / "data", ["stem,kind,width_px,height_px"]
    data.mkdir()
    for stem in ("0001000b", "0001000c", "0001000d", "0001000f"):
        labels = np.pad(two_touching(), 32).astype(np.uint16)
        cv2.imwrite(str(data / f"{stem}.png"), np.repeat((labels > 0)[..., None] * np.uint8(180), 3, axis=2))
        cv2.imwrite(str(data / f"{stem}_labels.png"), labels)
        rows.append(f"{stem},{FLUORESCENCE},128,128")
    (data / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = ["--data", str(data), "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "2"]
    command += ["--widths", "4", "6", "--scaling", "objects"]
    assert main([*command, "--seconds", "1e-9"]) == 0
    assert "stopped by the time limit at step 0 of 2" in capsys.readouterr().out
    assert main(command) == 0
    settings = read_claim(tmp_path / "run", NucleiSettings)
    assert settings.scaling == "objects"
    assert trained(tmp_path / "run", settings)[1].steps == 2


def test_processes_that_draw_end_with_a_killed_parent(tmp_path: Path) -> None:
    """They hold both ends of their queue, so nothing else would end them."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while _is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


_PARENT = """
import multiprocessing, os, time
import numpy as np
from slidecascade_training.prefetch import Batch, prefetched

def draw(step):
    return Batch(np.array([os.getpid()]), np.zeros(1))

if __name__ == "__main__":
    with prefetched(draw, stop=1, in_processes=True) as batches:
        print(int(batches(0).images[0]), flush=True)
        time.sleep(600)
"""


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
