"""Files of Keras 2's own savers: the networks they hold answer as they did, and no code in them is run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import h5py

import keras2_files
import toy_keras
from slidecascade.errors import ConversionError
from slidecascade_convert.outcome import GRAPH_FILE, Outcome
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.worker import convert

CLASSIFY: dict[str, Any] = {
    "task": "classify",
    "head": "softmax",
    "classes": ("a", "b", "c"),
    "normalisation": Normalisation.scaled(1 / 255),
}
SEGMENT: dict[str, Any] = {"task": "segment", "head": "semantic", "classes": ("Nucleus",)}

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow and its exporter warn about their own code


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keras2_files.written(tmp_path_factory.mktemp("keras2"), *keras2_files.SMALL)


def outcome_of(source: Path, scratch: Path, **fields: Any) -> Outcome:
    asked = (SEGMENT if "unet" in source.name else CLASSIFY) | fields
    (scratch / "source.h5").unlink(missing_ok=True)  # of a conversion before this one
    return convert(
        ConversionRequest(source=source, name="toy", out=scratch / "models", **asked),
        scratch,
        network_was_reachable=True,
    )


def check(scratch: Path, known: Path) -> None:
    """The served graph gives the answers that the saved network gave."""
    answers = np.load(known)
    session = onnxruntime.InferenceSession(scratch / GRAPH_FILE, providers=["CPUExecutionProvider"])
    served, expected = session.run(None, {"image": answers["images"]})[0], answers["answers"]
    if served.dtype == np.uint8:
        assert np.abs(served - 255 * expected).max() < 0.51
    else:
        np.testing.assert_allclose(served, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "operation-unet", "classifier", "channels-first"])
def test_a_whole_model_answers_as_keras_2_did(files: Path, tmp_path: Path, name: str) -> None:
    """Lambda and operation layers, nesting, channels first, an author's own loss, an optimizer's state."""
    source = files / f"{name}.h5"
    with h5py.File(source) as file:
        assert "dice_coef" in str(file.attrs["training_config"])
        assert "optimizer_weights" in file
    outcome = outcome_of(source, tmp_path)
    check(tmp_path, files / f"{name}.npz")
    assert outcome.parity is not None
    assert outcome.parity.versions["saved_by_keras"].startswith("2.")
    if name == "unet":
        assert "'lambda' multiplies by 0.00392157, as in its code" in outcome.parity.notes[0]


def test_a_lambda_that_does_more_is_refused_by_name(files: Path, tmp_path: Path) -> None:
    """Its function is unknown, and the error says how to state it."""
    with pytest.raises(ConversionError, match=r"'swap' is a Lambda.*--lambda swap=rescale"):
        outcome_of(files / "swapping-unet.h5", tmp_path)
    outcome_of(files / "swapping-unet.h5", tmp_path, lambdas={"swap": 1 / 255}, bgr=True)
    check(tmp_path, files / "swapping-unet.npz")


def with_lambda(source: Path, folder: Path, code: str) -> Path:
    """The same file as Python 3.6 would have left it: with `code` in its Lambda layer."""
    copied = folder / "unet.h5"
    shutil.copyfile(source, copied)
    return toy_keras.rewrite_layer(copied, "lambda", toy_keras.keras2_lambda(code, "lambda"))


def test_a_lambda_of_python_3_6_is_recognised(files: Path, tmp_path: Path) -> None:
    """Its bytecode cannot be unmarshalled by this Python, and is not: the bytes say that it divides by 255."""
    outcome = outcome_of(with_lambda(files / "unet.h5", tmp_path, toy_keras.marshalled()), tmp_path)
    check(tmp_path, files / "unet.npz")
    assert outcome.parity is not None
    assert "as in its code; its code was not run" in outcome.parity.notes[0]


def test_another_lambda_of_python_3_6_has_to_be_stated(files: Path, tmp_path: Path) -> None:
    """``x / 127 - 1`` is more than a division: refused with the layer's name, and replaced when it is stated."""
    source = with_lambda(files / "unet.h5", tmp_path, toy_keras.marshalled(divisor=127, shift=1))
    with pytest.raises(ConversionError, match=r"'lambda' is a Lambda.*--lambda lambda=rescale"):
        outcome_of(source, tmp_path)
    outcome_of(source, tmp_path, lambdas={"lambda": 1 / 255})
    check(tmp_path, files / "unet.npz")


def test_weights_alone_fit_the_network_that_its_author_builds(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built anew by Keras 3, by the same lines; branches of equal shapes get each their own weights."""
    lines = "import keras, keras2_files\ndef build(): return keras2_files.classifier(keras)\n"
    (tmp_path / "keras2_author.py").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    outcome_of(files / "classifier-weights.h5", tmp_path, arch="keras2_author:build")
    check(tmp_path, files / "classifier.npz")


@pytest.mark.parametrize("name", ["classifier", "channels-first"])
def test_a_saved_model_with_its_training_steps_is_served(files: Path, tmp_path: Path, name: str) -> None:
    """Keras 2 saves them beside the serving function; only that one is looked at, and runs."""
    outcome_of(files / f"{name}-saved", tmp_path)
    check(tmp_path, files / f"{name}.npz")


def test_a_saved_segmenter_of_a_fixed_size_looks_through_windows(files: Path, tmp_path: Path) -> None:
    """Its graph takes images of 64 px only: what is served takes any size, in windows, and the report says so."""
    outcome = outcome_of(files / "unet-saved", tmp_path)
    assert outcome.parity is not None
    assert "windows" in " ".join(outcome.parity.notes)
    session = onnxruntime.InferenceSession(tmp_path / GRAPH_FILE, providers=["CPUExecutionProvider"])
    maps = session.run(None, {"image": np.full((1, 96, 160, 3), 128, np.uint8)})[0]
    assert maps.shape[:3] == (1, 96, 160)
    assert np.ptp(maps) > 0  # the values of windows are compared with a plain loop in test_convert_sizes
