"""The reference classifier of tumour at full size, from files of Keras 2 and Keras 3 to the grid of a slide."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import keras2_files
from served_process import environment
from slidecascade.cli import main
from slidecascade.slides.slide import can_open
from slidecascade_render.lymph.node import render
from slidecascade_render.lymph.slides import write_slide
from slidecascade_render.lymph.specimen import NodeOptions

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WIDTH, HEIGHT, CONTEXT, STRIDE = 620, 500, 299, 128
OPTIONS = NodeOptions(seed=3, mpp=0.25, tumour=0.9, edge=2.0)
CONVERT = ("--task", "classify", "--head", "sigmoid", "--scale", "1/255", "--classes", "Normal,Tumour")
PIPELINE: dict[str, Any] = {
    "name": "full-size",
    "kind": "patches",
    "title": "Tumour",
    "description": "InceptionV3, Flatten, Dense 128, Dropout, sigmoid.",
    "classifier": "tumour",
    "patch": {"context_px": CONTEXT, "stride_px": STRIDE, "mpp": 0.25},
    "heatmaps": [{"name": "tumor", "title": "Tumour", "class": "Tumour"}],
}


def keras_2_file(folder: Path) -> Path:
    keras2_files.written(folder, "inception-v3-299")
    return folder / "inception-v3-299.h5"


def keras_3_file(folder: Path) -> Path:
    """Random weights, whose last layer is scaled so that probabilities are spread."""
    import keras

    keras.utils.set_random_seed(5)
    model = keras2_files.inception(keras)
    images = np.random.default_rng(1).uniform(0, 1, (4, CONTEXT, CONTEXT, 3)).astype(np.float32)
    features = keras.Model(model.input, model.layers[-1].input)(images).numpy()
    weights = np.random.default_rng(2).normal(size=(features.shape[1], 1))
    logits = features @ weights
    model.layers[-1].set_weights([weights / logits.std(), -np.array([logits.mean() / logits.std()])])
    model.save(folder / "inception.keras")
    return folder / "inception.keras"


@pytest.mark.parametrize("write", [keras_2_file, keras_3_file], ids=["keras-2", "keras-3"])
def test_the_full_size_network_serves_a_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    """Every probability of the grid is that of its own context, cut from the slide."""
    models = tmp_path / "models"
    assert main(["convert", str(write(tmp_path)), "--name", "tumour", "--out", str(models), *CONVERT]) == 0
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "full-size.yaml").write_text(yaml.safe_dump(PIPELINE), encoding="utf-8")
    slide = tmp_path / "node.tiff"
    write_slide(slide, OPTIONS, WIDTH, HEIGHT, levels=1)
    assert can_open(slide)
    for name, value in environment(tmp_path, pipelines_dir=tmp_path / "pipelines").items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    assert (
        main(["analyze", str(slide), "--pipeline", "full-size", "--models", str(models), "--out", str(out)]) == 0
    )

    grid = np.load(out / "grid.npy")
    assert grid.shape == (round(HEIGHT / STRIDE), round(WIDTH / STRIDE))
    session = onnxruntime.InferenceSession(models / "tumour" / "1" / "model.onnx")
    image = read(slide)
    for row, column in np.argwhere(~np.isnan(grid)).tolist():
        context = context_of(image, column, row)
        (expected,) = session.run(None, {"image": context[None]})
        assert grid[row, column] == pytest.approx(expected[0, 1], abs=1e-4)
    assert np.nanmax(grid) - np.nanmin(grid) > 0
    with (out / "grid.csv").open() as table:
        assert len(list(csv.DictReader(table))) == np.count_nonzero(~np.isnan(grid)) > 8


def read(slide: Path) -> NDArray[np.uint8]:
    import openslide

    with openslide.OpenSlide(slide) as opened:
        return np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"), np.uint8)


def context_of(image: NDArray[np.uint8], column: int, row: int) -> NDArray[np.uint8]:
    """From (128x - 85, 128y - 85) on, white beyond the slide."""
    white = np.full((HEIGHT + 2 * CONTEXT, WIDTH + 2 * CONTEXT, 3), 255, np.uint8)
    white[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT] = image
    x, y = STRIDE * column - 85 + CONTEXT, STRIDE * row - 85 + CONTEXT
    return white[y : y + CONTEXT, x : x + CONTEXT]


def test_the_rendered_slide_is_the_rendered_node() -> None:
    """What the grid is computed from is tissue with tumour."""
    node = render(OPTIONS, width_px=WIDTH, height_px=HEIGHT)
    assert node.tumour.mean() > 0.05
