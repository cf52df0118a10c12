"""`slidecascade train`: from a data set to a served model, through kills, bad losses and full disks."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

import toy_dataset
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cli import main
from slidecascade.errors import TrainingFailedError
from slidecascade.models.repository import load_package
from slidecascade.settings import bundled_models_dir, read_settings
from slidecascade.timing import Silent
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import CLASS_NAMES, TissueOptions, render
from slidecascade_training.nuclei import recipe as nuclei_recipe
from slidecascade_training.nuclei import users as nuclei_users

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for package in ("tensorflow", "matplotlib"):
    pytest.importorskip(package, reason="the [train] extra is not installed")

pytestmark = pytest.mark.slow

TINY = "tiny-classifier"
RUN_PIXELS = 384


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of red and blue discs from four images, one of them kept for validation."""
    folder = tmp_path_factory.mktemp("discs")
    slides, annotations = toy_dataset.write_slides(folder, 4)
    call = ["dataset", "--slides", str(slides), "--annotations", str(annotations), "--out", str(folder / "data")]
    assert main([*call, "--mpp", "0.25", "--size", "24", "--slide-mpp", "0.25"]) == 0
    return folder / "data"


def _call(data: Path, out: Path, *more: str, recipe: str = TINY) -> list[str]:
    return ["train", recipe, "--data", str(data), "--out", str(out), "--batch", "16", *more]


def _weights(run: Path) -> list[Any]:
    (last,) = sorted((run / "checkpoints").glob("epoch-*.npz"))[-1:]
    with np.load(last) as stored:
        return [stored[name] for name in stored.files if name != "history"]


def test_from_slides_to_a_served_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rendered slides, a data set, a network, a package, a pipeline: most cells of an unseen slide are right."""
    slides, annotations, models = tmp_path / "slides", tmp_path / "annotations", tmp_path / "models"
    slides.mkdir()
    annotations.mkdir()
    tissues = []
    for number in range(3):
        options = TissueOptions(seed=40 + number, mpp=0.25, immune_per_mm2=2500, other_per_mm2=0)
        tissue = render(options, width_px=RUN_PIXELS, height_px=RUN_PIXELS)
        tissues.append(tissue)
        write_slide(slides / f"liver-{number}.tiff", options, RUN_PIXELS, RUN_PIXELS)
        names = ["Immune" if CLASS_NAMES[kind] == "immune" else "Hepatocyte" for kind in tissue.classes[1:]]
        features = [
            toy_dataset.feature("Point", [x + 0.5, y + 0.5], name)
            for (x, y), name in zip(tissue.centroids.tolist(), names, strict=True)
        ]
        toy_dataset.write_annotations(annotations / f"liver-{number}.geojson", features)
    folders = ["--slides", str(slides), "--annotations", str(annotations), "--out", str(tmp_path / "data")]
    assert main(["dataset", *folders, "--mpp", "0.25", "--size", "48", "--validation", "0.3"]) == 0
    shutil.copytree(bundled_models_dir() / "nuclei-unet", models / "nuclei-unet")
    call = _call(tmp_path / "data", tmp_path / "run", "--epochs", "10", "--package", "--name", "my-cell")
    assert main([*call, "--batch", "8", "--models", str(models)]) == 0

    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {
        "report.json", "curves.png", "confusion.png", "roc.png", "calibration.png", "mistakes.png",
    }  # fmt: skip
    spec = load_package(models / "my-cell").spec
    assert spec.accuracy["balanced_accuracy"] == pytest.approx(report["figures"]["balanced_accuracy"], abs=0.05)
    rows = (tmp_path / "data" / "index.csv").read_text(encoding="utf-8").splitlines()[1:]
    held_out = next(row.split(",")[2] for row in rows if ",validate," in row)
    tissue = tissues[int(held_out[6])]
    right = _served_accuracy(slides, models, tmp_path / "pipelines", held_out, tissue)
    assert right > 0.6
    assert "The model is in" in capsys.readouterr().out


def _served_accuracy(slides: Path, models: Path, pipelines: Path, slide: str, tissue: Any) -> float:
    """The share of the cells that lie on a true nucleus whose served class is its class."""
    pipelines.mkdir()
    fields = {
        "name": "mine", "title": "Mine", "description": "Nuclei, then my classifier.", "segmenter": "nuclei-unet",
        "cascade": [{"model": "my-cell"}],
        "heatmaps": [{"name": "immune", "title": "Immune", "kind": "density", "classes": ["Immune"]}],
    }  # fmt: skip
    (pipelines / "mine.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    settings = read_settings(models_dir=models, pipelines_dir=pipelines, slide_roots=(slides,))
    analyser = Analyser(settings, observer=Silent())
    try:
        request = wire.parse_request({"pipeline": "mine", "slide": slide})
        analysis = analyser.analyse(request, None, Control()).cells
    finally:
        analyser.close()
    columns, rows = np.floor(analysis.instances.centroids).astype(int).T
    label = tissue.nuclei[rows, columns]
    truth = np.array(["Immune" if CLASS_NAMES[kind] == "immune" else "Hepatocyte" for kind in tissue.classes])
    names = np.array([item.name for item in analysis.classes.ends])[analysis.class_index]
    assert (label > 0).sum() > 20
    return float((names == truth[label])[label > 0].mean())


def test_a_killed_run_resumes_with_the_same_result(data: Path, tmp_path: Path) -> None:
    """SIGKILL after the second epoch, then the same call: the weights of an unbroken run, bit for bit."""
    more = ("--epochs", "5", "--patience", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "slidecascade", *_call(data, tmp_path / "killed", *more)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    second = tmp_path / "killed" / "checkpoints" / "epoch-00002.npz"
    until = time.monotonic() + 1800  # a crowded machine imports TensorFlow for minutes
    while not second.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = sorted((tmp_path / "killed" / "checkpoints").glob("epoch-*.npz"))
    assert done
    assert done[-1].name < "epoch-00005.npz"

    assert main(_call(data, tmp_path / "killed", *more)) == 0
    assert main(_call(data, tmp_path / "whole", *more)) == 0
    pairs = list(zip(_weights(tmp_path / "killed"), _weights(tmp_path / "whole"), strict=True))
    assert len(pairs) > 20
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert len(list((tmp_path / "killed" / "events").iterdir())) == 2


def test_a_run_is_resumed_with_its_own_settings_only(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another rate would make another run; a folder of something else is left alone."""
    assert main(_call(data, tmp_path / "run", "--epochs", "1")) == 0
    assert main(_call(data, tmp_path / "run", "--epochs", "1", "--rate", "0.5")) == 2
    assert "contains a run with rate 0.004, not 0.5" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine", encoding="utf-8")
    assert main(_call(data, tmp_path / "other")) == 2
    assert "contains no run" in capsys.readouterr().err
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert main(_call(data, tmp_path / "run", "--epochs", "1")) == 1
    assert "checkpoint of epoch 1 cannot be read" in capsys.readouterr().err


def test_a_nan_loss_stops_the_run(data: Path, tmp_path: Path) -> None:
    """The checkpoint of the epoch before is kept, and the sentence says so."""
    import keras
    from keras import ops

    from slidecascade_training.checkpoint import Checkpoints
    from slidecascade_training.recipes.run import compiled, plan_of, train
    from slidecascade_training.recipes.samples import TrainingSet
    from slidecascade_training.recipes.settings import RunSettings
    from slidecascade_training.recipes.table import find_recipe

    class Poison(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped
        """No number after its fifth training step."""

        def build(self, shape: Any) -> None:
            self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, tensor: Any, training: bool = False) -> Any:
            if training:
                self.steps.assign(self.steps + 1)
            return ops.where(self.steps > 5, float("nan"), tensor)

    def build(classes: int) -> Any:
        image = keras.Input((48, 48, 3))
        tensor = keras.layers.GlobalAveragePooling2D()(image)
        return keras.Model(image, Poison()(keras.layers.Dense(classes, activation="softmax")(tensor)))

    recipe = replace(find_recipe(TINY), build=build)
    training_set = TrainingSet.read(data, recipe)
    settings = RunSettings.of(recipe, data, epochs=4, batch=16)
    assert -(-len(training_set.train) // 16) == 3
    with pytest.raises(TrainingFailedError, match="loss became nan in epoch 2; the checkpoint of epoch 1 is kept"):
        train(training_set, recipe, settings, tmp_path / "run")
    model = compiled(recipe, 2, plan_of(training_set, settings), seed=0)
    history = Checkpoints(tmp_path / "run" / "checkpoints").restore_last(model)
    assert len(history.epochs) == 1
    assert all(np.isfinite(np.asarray(weights)).all() for weights in model.get_weights())


def test_a_full_disk_stops_the_run_and_leaves_no_half_checkpoint(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What fits is written, what does not is not there."""
    with toy_dataset.disk_full_after(20_000):
        assert main(_call(data, tmp_path / "run", "--epochs", "2")) == 1
    assert "Results cannot be written to" in capsys.readouterr().err
    assert not any((tmp_path / "run" / "checkpoints").iterdir())
    more = ("--epochs", "1", "--package", "--name", "small", "--models", str(tmp_path / "models"))
    assert main(_call(data, tmp_path / "run-2", "--epochs", "1")) == 0
    capsys.readouterr()
    with toy_dataset.disk_full_after(12_000):  # less than a picture of the report
        assert main(_call(data, tmp_path / "run-2", *more)) == 1
    assert "Results cannot be written to" in capsys.readouterr().err
    assert not (tmp_path / "models" / "small").exists()


def test_the_range_test_draws_its_curve(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It trains nothing that is kept, and names a rate."""
    assert main(_call(data, tmp_path / "rates", "--find-rate", "--find-rate-steps", "40")) == 0
    curve = json.loads((tmp_path / "rates" / "rates.json").read_text(encoding="utf-8"))
    assert curve["rates"] == sorted(curve["rates"])
    assert 1e-7 <= curve["advice"] <= 0.1
    assert {path.name for path in (tmp_path / "rates").iterdir()} == {"rates.json", "rates.png"}
    assert "Train at --rate" in capsys.readouterr().out


def test_reference_networks_learn_a_step_at_full_size() -> None:
    """Xception builds with the published number of weights, and a step changes them."""
    from slidecascade_training.recipes.run import compiled
    from slidecascade_training.recipes.table import find_recipe
    from slidecascade_training.schedule import RatePlan

    found = find_recipe("xception-72")
    model = compiled(found, 3, RatePlan(kind="constant", highest=1e-3, steps=1), seed=1)
    assert model.count_params() == 20_867_627
    model.run_eagerly = True  # tracing so many layers would take longer than the step
    generator = np.random.default_rng(1)
    images = generator.uniform(-1, 1, (2, found.input_px, found.input_px, 3)).astype(np.float32)
    before = [weights.copy() for weights in model.get_weights()]
    loss = model.train_on_batch(images, np.eye(3, dtype=np.float32)[:2])[0]
    assert np.isfinite(float(loss))
    assert any((one != other).any() for one, other in zip(before, model.get_weights(), strict=True))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_another_backend_trains_and_packages(data: Path, tmp_path: Path) -> None:
    """The same call with KERAS_BACKEND=torch: the package comes out of a process of its own."""
    more = ("--epochs", "1", "--package", "--name", "by-torch", "--models", str(tmp_path / "models"))
    done = subprocess.run(
        [sys.executable, "-m", "slidecascade", *_call(data, tmp_path / "run", *more)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    spec = load_package(tmp_path / "models" / "by-torch").spec
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    assert spec.accuracy["roc_auc"] == pytest.approx(report["figures"]["roc_auc"], abs=1e-3)


def _with_first_crop(data: Path, tmp_path: Path, image: Any) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    first = (copy / "index.csv").read_text(encoding="utf-8").splitlines()[1].split(",")[0]
    cv2.imwrite(str(copy / first), image)
    return copy


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (np.zeros((24, 24, 3), np.uint16), "is not 8-bit RGB"),
        (np.zeros((24, 24, 4), np.uint8), "is not 8-bit RGB without transparency"),
        (np.zeros((24, 24), np.uint8), "is not 8-bit RGB"),
        (np.zeros((20, 24, 3), np.uint8), "has 24 x 20 pixels"),
    ],
)
def test_crops_of_another_kind_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], image: Any, reported: str
) -> None:
    """Told by name before anything is trained; no run is begun."""
    assert main(_call(_with_first_crop(data, tmp_path, image), tmp_path / "run")) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda rows: rows[:1], "The data set is empty"),
        (lambda rows: rows[:2], "one example only"),
        (lambda rows: [row.replace(",Red,", ",Green,") for row in rows], "has the class 'Green'"),
        (lambda rows: [row for row in rows if ",Red," not in row], "'Red' has no examples for training"),
        (lambda rows: [row.replace(",train,", ",validate,") for row in rows], "no examples for training"),
        (lambda rows: [row.replace("crops/", "../crops/") for row in rows], "files are inside the data set"),
        (lambda rows: [row.replace(",train,", ",test,") for row in rows], "index.csv does not have the format"),
        (lambda rows: [row.replace(".png,", ".jpg,", 1) for row in rows], "cannot be read"),
    ],
)
def test_edited_lists_are_checked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, reported: str
) -> None:
    """What is wrong with index.csv is one sentence."""
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    index = copy / "index.csv"
    index.write_text("\n".join(change(index.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    assert main(_call(copy, tmp_path / "run")) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _tiles(tmp_path: Path) -> Path:
    """Two tiles of 64 px with one outlined cell each, one of them kept for validation."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 2)
    ring = [[[20, 20], [60, 20], [60, 50], [20, 50], [20, 20]]]
    for path in annotations.iterdir():
        toy_dataset.write_annotations(path, [toy_dataset.feature("Polygon", ring, "Cell")])
    folders = ["--slides", str(slides), "--annotations", str(annotations), "--out", str(tmp_path / "tiles")]
    numbers = ["--mpp", "0.5", "--slide-mpp", "0.5", "--size", "64", "--validation", "0.5"]
    assert main(["dataset", *folders, *numbers, "--from", "outlines"]) == 0
    return tmp_path / "tiles"


def test_a_segmenter_trains_and_packages(tmp_path: Path) -> None:
    """The reference U-Net at full size on small tiles: Dice in the report, maps that the served head reads."""
    more = ("--epochs", "1", "--package", "--name", "my-cells", "--models", str(tmp_path / "models"))
    assert main(_call(_tiles(tmp_path), tmp_path / "run", *more, recipe="unet-256")) == 0
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    spec = load_package(tmp_path / "models" / "my-cells").spec
    assert spec.task == "segment"
    assert 0 <= report["figures"]["dice"] <= 1
    assert spec.accuracy["dice"] == pytest.approx(report["figures"]["dice"], abs=0.02)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {
        "report.json", "curves.png", "tiles.png", "worst.png",
    }  # fmt: skip
    assert report["worst_tiles"][0]["cells"]["truth"] == 1


def test_the_nuclei_recipe_learns_from_a_users_tiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command to a package the service loads; what is done is not done again."""
    small = partial(nuclei_recipe.settings_of, widths=(4, 6, 8), batch=2)
    monkeypatch.setattr(nuclei_users, "settings_of", small)
    monkeypatch.setattr(nuclei_recipe, "EPOCH_STEPS", 2)
    call = ["train", "nuclei", "--data", str(_tiles(tmp_path)), "--out", str(tmp_path / "run")]
    assert main([*call, "--epochs", "0"]) == 2
    assert "has no --epochs" in capsys.readouterr().err
    assert main([*call, "--steps", "0"]) == 2
    assert "--steps must be at least 1" in capsys.readouterr().err
    call += ["--steps", "3"]
    more = ("--package", "--name", "my-nuclei", "--models", str(tmp_path / "models"))
    assert main([*call, *more]) == 0
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    assert [item["step"] for item in report["losses"]] == [2, 3]
    assert (report["measured_on"], report["examples"], report["settings"]["steps"]) == ("validate", 1, 3)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {
        "report.json", "curves.png", "worst.png",
    }  # fmt: skip
    spec = load_package(tmp_path / "models" / "my-nuclei").spec
    assert spec.accuracy.keys() == report["figures"].keys() == {"ap50", "ap50_pooled", "mean_ap", "dice"}
    assert (spec.task, spec.mpp, spec.version) == ("segment", 0.5, 1)
    assert [item.name for item in spec.classes] == ["Cell"]
    assert (tmp_path / "models" / "my-nuclei" / "README.md").is_file()
    assert "3 steps, from step 0" in capsys.readouterr().out
    assert main(call) == 0
    assert "3 steps, from step 3" in capsys.readouterr().out
    assert main([*call, "--seed", "1"]) == 2
    assert "contains a run with seed 0, not 1" in capsys.readouterr().err
    with toy_dataset.disk_full_after(20_000):
        assert main([*call[:-3], str(tmp_path / "full"), *call[-2:]]) == 1
    assert "Results cannot be written to" in capsys.readouterr().err
    assert not any((tmp_path / "full" / "checkpoints").iterdir())


def test_masks_of_another_size_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A segmenter's labels must fit its tiles; crops are no tiles."""
    _tiles(tmp_path)
    assert main(_call(tmp_path / "tiles", tmp_path / "run")) == 2
    assert "learns from crops" in capsys.readouterr().err
    labels = next((tmp_path / "tiles").glob("*_labels.png"))
    cv2.imwrite(str(labels), np.zeros((32, 64), np.uint16))
    assert main(_call(tmp_path / "tiles", tmp_path / "run", recipe="unet-256")) == 2
    assert "_labels.png has 64 x 32 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(("backend", "code"), [("nonsense", 2), ("jax", 1)])
def test_a_backend_that_is_not_there_is_one_sentence(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    code: int,
) -> None:
    """No run is begun with a backend that Keras does not have or that is not installed."""
    if importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is installed")
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert main(_call(data, tmp_path / "run")) == code
    reported = capsys.readouterr().err
    assert backend in reported
    assert reported.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--steps", "5"], "has no --steps"),
        (["--batch", "0"], "--batch"),
        (["--rate", "nan"], "--rate"),
        (["--rate", "-1"], "--rate"),
        (["--seed", "-1"], "--seed"),
        (["--package"], "--name"),
        (["--package", "--name", "No Name"], "--name"),
        (["--find-rate", "--find-rate-steps", "3"], "--find-rate-steps"),
        (["--data", "nowhere"], "nowhere contains no data set"),
    ],
)
def test_wrong_calls_get_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], reported: str
) -> None:
    """Exit code 2, and no folder is begun."""
    assert main([*_call(data, tmp_path / "run"), *more]) == 2
    stderr = capsys.readouterr().err
    assert reported in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()
    assert main(_call(data, tmp_path / "run", recipe="resnet")) == 2
    assert "There is no recipe 'resnet'" in capsys.readouterr().err
