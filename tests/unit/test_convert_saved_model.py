"""SavedModels are served if they only compute; others are rejected before they are loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import tensorflow as tf

import toy_keras
from slidecascade.errors import ConversionError
from slidecascade_convert.outcome import GRAPH_FILE
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.source import recognise, sha256
from slidecascade_convert.worker import convert as convert_here

CROPS = np.random.default_rng(4).integers(0, 256, (3, toy_keras.SIDE_PX, toy_keras.SIDE_PX, 3), np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow and its exporter warn about their own code


def convert(folder: Path, source: Path) -> Any:
    request = ConversionRequest(
        source=source,
        name="toy",
        out=folder / "models",
        task="classify",
        head="softmax",
        classes=("a", "b", "c"),
        normalisation=Normalisation.scaled(1 / 255),
    )
    scratch = folder / "scratch"
    scratch.mkdir()
    convert_here(request, scratch, network_was_reachable=True)
    return onnxruntime.InferenceSession(scratch / GRAPH_FILE, providers=["CPUExecutionProvider"])


def saved(folder: Path, module: Any, function: Any) -> Path:
    """`function` of `module`, for images of 24 px, as TensorFlow's own saver writes it."""
    spec = tf.TensorSpec([None, toy_keras.SIDE_PX, toy_keras.SIDE_PX, 3], tf.float32)
    served = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "saved"), signatures=served.get_concrete_function())
    return folder / "saved"


def writing(folder: Path) -> Path:
    """Writes a file when it runs."""

    def answer(pixels: Any) -> Any:
        tf.io.write_file(str(folder / "trace"), "was here")
        return tf.nn.softmax(tf.reduce_mean(pixels, axis=[1, 2]))

    return saved(folder, tf.Module(), answer)


def looking_up(folder: Path) -> Path:
    """Fills a table from a file when it is loaded."""
    words = folder / "words.txt"
    words.write_text("one\n", encoding="utf-8")
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(words),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        1,
    )

    def answer(pixels: Any) -> Any:
        shift = tf.cast(module.table.lookup(tf.constant(["one"]))[0], tf.float32)
        return tf.nn.softmax(tf.reduce_mean(pixels, axis=[1, 2]) + shift)

    return saved(folder, module, answer)


def of_two_channels(folder: Path) -> Path:
    """Takes neither colour nor grey."""
    source = folder / "saved"
    module = tf.Module()
    spec = tf.TensorSpec([None, 24, 24, 2], tf.float32)
    function = tf.function(lambda pixels: tf.reduce_mean(pixels, axis=[1, 2]), input_signature=[spec])
    tf.saved_model.save(module, str(source), signatures=function.get_concrete_function())
    return source


def damaged(folder: Path) -> Path:
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"\xff" * 40)
    return folder / "saved"


def empty(folder: Path) -> Path:
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"")
    return folder / "saved"


def linked(folder: Path) -> Path:
    source = empty(folder)
    (source / "variables").symlink_to("/etc")
    return source


def other(folder: Path) -> Path:
    (folder / "saved").mkdir()
    return folder / "saved"


@pytest.mark.parametrize("saver", ["keras", "tensorflow"])
def test_a_saved_model_answers_as_the_model_that_was_saved(tmp_path: Path, saver: str) -> None:
    """As model.export writes it and as TensorFlow does, each with its own names of input and output."""
    model, source = toy_keras.classifier(), tmp_path / "saved"
    if saver == "keras":
        model.export(source, verbose=False)
    else:
        tf.saved_model.save(model, str(source))
    session = convert(tmp_path, source)
    expected = model(CROPS.astype(np.float32) / 255)
    np.testing.assert_allclose(session.run(None, {"image": CROPS})[0], expected, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["source.sha256"] == sha256(source)


@pytest.mark.parametrize(
    ("made", "reported"),
    [
        (writing, "operator WriteFile"),
        (looking_up, "acts when it is loaded"),
        (of_two_channels, "RGB or grey images"),
        (damaged, "damaged"),
        (empty, "no signature"),
    ],
)
def test_what_does_more_than_compute_is_refused(tmp_path: Path, made: Any, reported: str) -> None:
    """Before anything of it runs."""
    source = made(tmp_path)
    (tmp_path / "trace").unlink(missing_ok=True)
    with pytest.raises(ConversionError, match=reported):
        convert(tmp_path, source)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("made", "reported"), [(linked, "links to other places"), (other, "neither a SavedModel nor StarDist's")]
)
def test_other_folders_are_refused(tmp_path: Path, made: Any, reported: str) -> None:
    """Links are not followed."""
    with pytest.raises(ConversionError, match=reported):
        recognise(made(tmp_path))
