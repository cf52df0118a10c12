"""The recipe of full-size patch classifiers, from slides with masks to a pipeline that serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("tensorflow", reason="the [train] extra is not installed")

from slidecascade.cli import main
from slidecascade.models.repository import load_package
from slidecascade_render.lymph.slides import MASK_SUFFIX, write_mask, write_slide
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_training.datasets.folder import read_index

CONTEXT, STRIDE = 299, 128
WIDTH, HEIGHT = 3 * STRIDE, 2 * STRIDE


def write_slides(folder: Path, *seeds: int) -> None:
    """Rendered nodes, each in part tumour, with masks whose compression leaves grey levels around 0 and 255."""
    folder.mkdir()
    for seed in seeds:
        node = NodeOptions(seed=seed, mpp=0.25, tumour=0.5, edge=2.0)
        write_slide(folder / f"node{seed}.tiff", node, WIDTH, HEIGHT, levels=1)
        write_mask(folder / f"node{seed}{MASK_SUFFIX}", node, WIDTH, HEIGHT, levels=1)


@pytest.mark.slow
def test_inception_learns_from_patches_and_serves_a_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of a few steps: the report, a package, and a grid of its probabilities over a slide."""
    slides, data, models = tmp_path / "slides", tmp_path / "data", tmp_path / "models"
    write_slides(slides, 0, 3)
    cut = ["dataset", "--slides", str(slides), "--annotations", str(slides), "--out", str(data), "--mpp", "0.25"]
    size = ["--size", str(CONTEXT), "--from", "patches", "--mask-above", "127", "--validation", "0.5"]
    assert main([*cut, *size]) == 0
    spec, examples = read_index(data)
    assert (spec.kind, spec.size_px, spec.made_from) == ("crops", CONTEXT, "patches")
    assert {item.class_name for item in examples if item.split == "train"} == {"Normal", "Tumour"}

    run = tmp_path / "run"
    train = ["train", "inception-299", "--data", str(data), "--out", str(run), "--epochs", "1", "--batch", "4"]
    assert main([*train, "--package", "--name", "my-tumour", "--models", str(models)]) == 0
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["examples"] == sum(item.split == "validate" for item in examples)
    packaged = load_package(models / "my-tumour").spec
    assert (packaged.task, packaged.input.height_px, packaged.mpp) == ("classify", CONTEXT, 0.25)
    assert packaged.accuracy["accuracy"] == pytest.approx(report["figures"]["accuracy"], abs=1e-3)

    pipeline = {
        "name": "mine",
        "kind": "patches",
        "title": "Tumour",
        "description": "Trained here.",
        "classifier": "my-tumour",
        "patch": {"context_px": CONTEXT, "stride_px": STRIDE, "mpp": 0.25},
        "heatmaps": [{"name": "tumor", "title": "Tumour", "class": "Tumour"}],
    }
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "mine.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(tmp_path / "pipelines"))
    call = ["analyze", str(slides / "node0.tiff"), "--pipeline", "mine", "--models", str(models)]
    assert main([*call, "--out", str(tmp_path / "out")]) == 0
    grid = np.load(tmp_path / "out" / "grid.npy")
    assert grid.shape == (HEIGHT // STRIDE, WIDTH // STRIDE)
    assert np.isfinite(grid).any()
    assert np.nanmin(grid) >= 0
    assert np.nanmax(grid) <= 1
