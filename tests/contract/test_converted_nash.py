"""The reference networks at full size, with random weights, from legacy files to cells of the nash pipeline."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import toy_keras
from served_process import StartServer
from slidecascade.cli import main
from slidecascade_client import Client
from slidecascade_convert.architectures import build
from slidecascade_convert.conversion import convert
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_training.tissue import RenderedTissue, TissueOptions, render

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MPP = 0.5
CELL = ("Hepatocyte", "Immune", "Other")
HEPATOCYTE = ("Ballooning", "Normal", "Steatosis")
MINUS_ONE_TO_ONE = Normalisation.standardised((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), scale=1 / 127.5)


@pytest.fixture(scope="module")
def tissue() -> RenderedTissue:
    return render(TissueOptions(seed=11, mpp=MPP), width_px=256, height_px=256)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory, tissue: RenderedTissue) -> Path:
    """A model repository of three converted networks, under the names the nash pipeline asks for."""
    import keras

    folder = tmp_path_factory.mktemp("reference")
    keras.utils.set_random_seed(0)
    build("xception-72", 3).save(folder / "nash-cell.h5")
    build("xception-96", 3).save(folder / "nash-hepatocyte.h5")
    _fitted_unet(tissue).save(folder / "nuclei-unet.h5")
    entry = toy_keras.keras2_lambda(toy_keras.marshalled(), "rescaling")
    toy_keras.rewrite_layer(folder / "nuclei-unet.h5", "rescaling", entry)
    requests = (
        _classifier(folder, "nash-cell", CELL, crop_px=54),
        _classifier(folder, "nash-hepatocyte", HEPATOCYTE, crop_px=96),
        _segmenter(folder, "nuclei-unet"),
    )
    with ThreadPoolExecutor(len(requests)) as pool:
        first, second, third = [done.parity.agreement for done in pool.map(convert, requests)]
    assert first.argmax_agreement == second.argmax_agreement == third.object_agreement == 1.0
    return folder / "models"


def _classifier(folder: Path, name: str, classes: tuple[str, ...], *, crop_px: int) -> ConversionRequest:
    return ConversionRequest(
        source=folder / f"{name}.h5",
        name=name,
        task="classify",
        head="softmax",
        classes=classes,
        crop_px=crop_px,
        normalisation=MINUS_ONE_TO_ONE,
        out=folder / "models",
    )


def _segmenter(folder: Path, name: str) -> ConversionRequest:
    return ConversionRequest(
        source=folder / f"{name}.h5",
        name=name,
        task="segment",
        head="semantic",
        classes=("Nucleus",),
        mpp=MPP,
        out=folder / "models",
    )


def _fitted_unet(tissue: RenderedTissue) -> Any:
    """The U-Net with random weights but for its last layer, which is fitted to find about as much as there is."""
    import keras

    model = build("unet-256", 1)
    before = keras.Model(model.input, model.layers[-1].input)
    features = np.asarray(before(tissue.image[None].astype(np.float32))).reshape(-1, 16)
    is_nucleus = tissue.nuclei.ravel() > 0
    columns = np.column_stack([features, np.ones(len(features))])
    weights = np.linalg.lstsq(columns, is_nucleus.astype(np.float64), rcond=None)[0]
    bias = -np.quantile(columns[:, :16] @ weights[:16], 1 - is_nucleus.mean())
    kernel = 50 * weights[:16].reshape(1, 1, 16, 1)
    model.layers[-1].set_weights([kernel, np.array([50 * bias])])
    return model


def test_the_whole_pipeline_runs_on_converted_networks(
    models_dir: Path, tissue: RenderedTissue, tmp_path: Path, start_server: StartServer
) -> None:
    """Cells are found, each has a class of the cascade, and a served process counts the same over HTTP."""
    image, out = tmp_path / "tile.png", tmp_path / "out"
    cv2.imwrite(str(image), cv2.cvtColor(tissue.image, cv2.COLOR_RGB2BGR))
    told = ["--pipeline", "nash", "--mpp", str(MPP), "--models", str(models_dir), "--out", str(out)]
    assert main(["analyze", str(image), *told]) == 0
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["cells"] > 5
    assert sum(summary["counts"].values()) == summary["cells"]
    with Client(start_server(models=models_dir).url) as client:
        assert client.analyze_region(image, pipeline="nash", mpp=MPP).counts == summary["counts"]


def test_a_converted_network_is_verified(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sha256, shapes, head and parity."""
    assert main(["models", "verify", "nuclei-unet", "--models", str(models_dir)]) == 0
    assert "from its original" in capsys.readouterr().out
