"""The reference networks at full size, from files of Keras 2 by the command line to cells of the nash pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import keras2_files
from served_process import StartServer
from slidecascade.cli import main
from slidecascade_client import Client
from slidecascade_convert.keras_original import open_keras
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.source import SourceFormat
from slidecascade_render.liver.tissue import TissueOptions, render

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MPP = 0.5
MINUS_ONE_TO_ONE = ("--scale", "1/127.5", "--mean", "1")
CLASSIFIER = ("--task", "classify", "--head", "softmax")

# Model, the file it is made of, how.
CONVERSIONS = {
    "nash-cell": ("xception-72.h5", *CLASSIFIER, *MINUS_ONE_TO_ONE, "--crop", "54",
                  "--classes", "Hepatocyte,Immune,Other"),
    "nash-hepatocyte": ("xception-96-weights.h5", "--arch", "xception-96", *CLASSIFIER, *MINUS_ONE_TO_ONE,
                        "--classes", "Ballooning,Normal,Steatosis"),
    "nuclei-unet": ("unet-256.h5", "--task", "segment", "--head", "semantic", "--mpp", str(MPP)),
    "tumour": ("inception-v3-299-weights.h5", "--arch", "inception-v3-299", "--task", "classify",
               "--head", "sigmoid", "--scale", "1/255", "--classes", "Normal,Tumour"),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keras2_files.written(tmp_path_factory.mktemp("keras2"), *keras2_files.REFERENCE)


@pytest.fixture(scope="module")
def models_dir(files: Path) -> Path:
    """A model repository of the converted networks, three of them under the names the nash pipeline asks for."""

    def convert(name: str, arguments: Sequence[str]) -> int:
        source, *reported = arguments
        return main(["convert", str(files / source), "--name", name, "--out", str(files / "models"), *reported])

    # Two at a time: the largest takes 4.5 GB.
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(convert, CONVERSIONS, CONVERSIONS.values()))
    assert codes == [0] * len(CONVERSIONS)
    return files / "models"


@pytest.mark.parametrize("name", CONVERSIONS)
def test_what_is_served_answers_as_keras_2_did(name: str, files: Path, models_dir: Path) -> None:
    """Held against the answers of the network that was saved, not of the one that was rebuilt."""
    network = CONVERSIONS[name][0].removesuffix(".h5").removesuffix("-weights")
    known = np.load(files / f"{network}.npz")
    expected = known["answers"]
    assert np.ptp(expected[..., 0]) > 0.3
    session = onnxruntime.InferenceSession(models_dir / name / "1" / "model.onnx")
    answers = session.run(None, {"image": known["images"]})[0]
    if name == "nuclei-unet":
        assert np.abs(answers - 255 * expected).max() < 0.51
    else:
        np.testing.assert_allclose(answers[:, -expected.shape[1] :], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "arch"),
    [
        ("xception-72-weights.h5", "xception-72"),
        ("unet-256-weights.h5", "unet-256"),
        ("inception-v3-299.h5", None),
        ("xception-96.h5", None),
    ],
)
def test_files_and_weights_of_the_other_networks_are_opened(
    source: str, arch: str | None, files: Path, tmp_path: Path
) -> None:
    """What is converted above from a whole file has an architecture by name as well, and the other way round."""
    known = np.load(files / f"{source.removesuffix('.h5').removesuffix('-weights')}.npz")
    units = known["answers"].shape[-1]
    request = ConversionRequest(
        source=files / source,
        name="toy",
        task="classify",
        head="sigmoid",
        out=tmp_path,
        classes=("a", "b", "c")[: max(units, 2)],
        arch=arch,
    )
    original = open_keras(request, SourceFormat.HDF5, tmp_path)
    pixels = known["images"].astype(np.float32)
    if source.startswith("xception"):
        pixels = pixels / 127.5 - 1
    elif source.startswith("inception"):
        pixels /= 255
    np.testing.assert_allclose(original.predict(pixels), known["answers"], atol=1e-4)


def test_the_whole_pipeline_runs_on_converted_networks(
    models_dir: Path, tmp_path: Path, start_server: StartServer
) -> None:
    """Cells are found, each has a class of the cascade, and a served process counts the same over HTTP."""
    tissue = render(TissueOptions(seed=keras2_files.TISSUE_SEED, mpp=MPP), width_px=256, height_px=256)
    image, out = tmp_path / "tile.png", tmp_path / "out"
    cv2.imwrite(str(image), cv2.cvtColor(tissue.image, cv2.COLOR_RGB2BGR))
    reported = ["--pipeline", "nash", "--mpp", str(MPP), "--models", str(models_dir), "--out", str(out)]
    assert main(["analyze", str(image), *reported]) == 0
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["cells"] > 5
    assert sum(summary["counts"].values()) == summary["cells"]
    with Client(start_server(models=models_dir).url) as client:
        assert client.analyze_region(image, pipeline="nash", mpp=MPP).counts == summary["counts"]


@pytest.mark.parametrize("name", ["nuclei-unet", "tumour"])
def test_a_converted_network_is_verified_and_shown(
    name: str, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sha256, shapes, head, speed and memory; the parity report."""
    assert main(["models", "verify", name, "--models", str(models_dir)]) == 0
    verified = capsys.readouterr().out
    assert "from its original" in verified
    assert "ms per image" in verified
    assert "MiB at the peak" in verified
    assert main(["models", "show", name, "--models", str(models_dir)]) == 0
    shown = capsys.readouterr().out
    assert "max_abs:" in shown
    assert "source_format: Keras HDF5" in shown
