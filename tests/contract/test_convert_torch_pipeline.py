"""A PyTorch segmenter, converted by the command, in the nash pipeline of a served process."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the [convert] extra is not installed")

import torch

import toy_torch
from served_process import StartServer
from slidecascade.cli import main
from slidecascade_client import Client
from slidecascade_render.liver.tissue import RenderedTissue, TissueOptions, render

MPP = 0.5
BUNDLED = Path(__file__).resolve().parents[2] / "models"


def _fitted(tissue: RenderedTissue) -> toy_torch.Segmenter:
    """Random weights but for its last layer, which is fitted to find about as much as there is."""
    model = toy_torch.segmenter()
    pixels = torch.from_numpy(tissue.image[None].transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        features = model.features(pixels)[0].flatten(1).T.double().numpy()
    is_nucleus = tissue.nuclei.ravel() > 0
    columns = np.column_stack([features, np.ones(len(features))])
    weights = np.linalg.lstsq(columns, is_nucleus.astype(np.float64), rcond=None)[0][:-1]
    threshold = np.quantile(features @ weights, 1 - is_nucleus.mean())
    with torch.no_grad():
        model.out.weight.copy_(torch.from_numpy(50 * weights).float().reshape(1, -1, 1, 1))
        model.out.bias = torch.nn.Parameter(torch.tensor([-50 * float(threshold)]))
    return model


def test_a_pytorch_segmenter_is_served_in_the_nash_pipeline(
    tmp_path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command converts its weights; over HTTP cells are found and every one has a class of the cascade."""
    tissue = render(TissueOptions(seed=11, mpp=MPP), width_px=256, height_px=256)
    image, models = tmp_path / "tile.png", tmp_path / "models"
    cv2.imwrite(str(image), cv2.cvtColor(tissue.image, cv2.COLOR_RGB2BGR))
    shutil.copytree(BUNDLED, models, ignore=shutil.ignore_patterns("nuclei-unet"))
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in _fitted(tissue).state_dict().items()}}, tmp_path / "a.ckpt"
    )
    monkeypatch.chdir(Path(toy_torch.__file__).parent)
    reported = [
        "--name",
        "nuclei-unet",
        "--task",
        "segment",
        "--head",
        "unet",
        "--mpp",
        str(MPP),
        "--scale",
        "1/255",
    ]
    reported += ["--logits", "--arch", "toy_torch:Segmenter", "--out", str(models)]
    assert main(["convert", str(tmp_path / "a.ckpt"), *reported]) == 0

    with Client(start_server(models=models).url) as client:
        result = client.analyze_region(image, pipeline="nash", mpp=MPP)
    assert len(result.cells) > 5
    assert sum(result.counts.values()) == len(result.cells)
