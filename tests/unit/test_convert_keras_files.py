"""Keras files of every kind become served graphs that answer as the model that was saved."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import h5py
import keras

import toy_keras
from slidecascade.cli import main
from slidecascade.errors import ConversionError
from slidecascade_convert import keras_files
from slidecascade_convert.outcome import GRAPH_FILE, Outcome
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.worker import convert as convert_here

CLASSIFY: dict[str, Any] = {
    "task": "classify",
    "head": "softmax",
    "classes": ("a", "b", "c"),
    "normalisation": Normalisation.scaled(1 / 255),
}
SEGMENT: dict[str, Any] = {"task": "segment", "head": "unet", "classes": ("Nucleus",)}
RNG = np.random.default_rng(4)
CROPS = RNG.integers(0, 256, (3, toy_keras.SIDE_PX, toy_keras.SIDE_PX, 3), np.uint8)
TILES = RNG.integers(0, 256, (2, 64, 64, 3), np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow and its exporter warn about their own code


def convert(folder: Path, source: Path, **fields: Any) -> tuple[Outcome, Callable[[Any], Any]]:
    """Convert in this process; the outcome and a function that runs the served graph."""
    request = ConversionRequest(source=source, name="toy", out=folder / "models", **fields)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    for left in scratch.iterdir():
        left.unlink()
    outcome = convert_here(request, scratch, network_was_reachable=True)
    session = onnxruntime.InferenceSession(scratch / GRAPH_FILE, providers=["CPUExecutionProvider"])
    return outcome, lambda images: session.run(None, {"image": images})[0]


def save(model: Any, path: Path) -> Path:
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def grey(maps: Any) -> Any:
    return np.round(255 * np.asarray(maps))


@pytest.mark.parametrize("ending", [".h5", ".keras"])
@pytest.mark.parametrize("made", [toy_keras.classifier, toy_keras.nested, toy_keras.channels_first])
def test_a_classifier_answers_as_the_model_that_was_saved(
    tmp_path: Path, made: Callable[[], Any], ending: str
) -> None:
    """Whole models of both formats, with a custom loss, optimizer state, nesting and channels first."""
    model = made()
    _, run = convert(tmp_path, save(model, tmp_path / f"model{ending}"), **CLASSIFY)
    pixels = CROPS.astype(np.float32) / 255
    expected = model(pixels.transpose(0, 3, 1, 2) if made is toy_keras.channels_first else pixels)
    np.testing.assert_allclose(run(CROPS), expected, atol=1e-5)


@pytest.mark.parametrize("ending", [".h5", ".keras"])
@pytest.mark.parametrize("upsampling", ["transpose", "bilinear", "nearest"])
def test_a_fixed_unet_is_served_at_any_size(tmp_path: Path, upsampling: str, ending: str) -> None:
    """Saved for 64 px, rebuilt with an open size; one map becomes both."""
    model = toy_keras.unet(upsampling=upsampling)
    outcome, run = convert(tmp_path, save(model, tmp_path / f"model{ending}"), **SEGMENT)
    maps = run(TILES)
    assert np.abs(maps - grey(model(TILES.astype(np.float32)))).max() <= 1
    assert outcome.multiple_of == 2
    assert run(np.zeros((1, 30, 50, 3), np.uint8)).shape == (1, 30, 50, 2)
    assert outcome.parity is not None
    assert "both as foreground and as interior" in outcome.parity.notes[-1]


def test_a_lambda_that_is_not_understood_never_runs(tmp_path: Path) -> None:
    """It is refused by name; stated by the caller, it is replaced; an unknown name is reported."""
    import base64
    import marshal

    trace = tmp_path / "trace"
    hidden = compile(f"(lambda x: open({str(trace)!r}, 'w').close() or x)", "f", "eval").co_consts[0]
    source = save(toy_keras.unet(), tmp_path / "model.h5")
    entry = toy_keras.keras2_lambda(base64.b64encode(marshal.dumps(hidden)).decode())
    toy_keras.rewrite_layer(source, "lambda_1", entry)
    with pytest.raises(ConversionError, match=r"'lambda_1' is a Lambda"):
        convert(tmp_path, source, **SEGMENT)
    convert(tmp_path, source, lambdas={"lambda_1": 1 / 255}, **SEGMENT)
    with pytest.raises(ConversionError, match=r"no Lambda layer 'other'"):
        convert(tmp_path, source, lambdas={"lambda_1": 1 / 255, "other": 2.0}, **SEGMENT)
    assert not trace.exists()


@pytest.mark.parametrize("ending", [".weights.h5", ".h5"])
def test_weights_alone_need_the_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """The caller's own function builds the network; without one, the file is refused with the way out."""
    from keras.src.legacy.saving import legacy_h5_format

    model, source = toy_keras.classifier(), tmp_path / f"model{ending}"
    if ending == ".h5":
        with h5py.File(source, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    else:
        save(model, source)
    (tmp_path / "my_networks.py").write_text("from toy_keras import classifier\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError, match=r"weights alone.*--arch"):
        convert(tmp_path, source, **CLASSIFY)
    _, run = convert(tmp_path, source, arch="my_networks:classifier", **CLASSIFY)
    np.testing.assert_allclose(run(CROPS), model(CROPS.astype(np.float32) / 255), atol=1e-5)
    for arch, reported in (
        ("nothing", "no architecture 'nothing'"),
        ("my_networks:nothing", "cannot be called"),
        ("my_networks:__name__", "cannot be called"),
        ("unet-256", "do not fit"),
    ):
        with pytest.raises(ConversionError, match=reported):
            convert(tmp_path, source, arch=arch, **CLASSIFY)


def test_a_classifier_is_not_a_segmenter(tmp_path: Path) -> None:
    """A network that is not fully convolutional cannot be rebuilt for every size."""
    source = save(toy_keras.classifier(), tmp_path / "model.h5")
    with pytest.raises(ConversionError, match="fully convolutional"):
        convert(tmp_path, source, **SEGMENT)


def truncated(folder: Path) -> Path:
    source = save(toy_keras.classifier(), folder / "model.h5")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return source


def truncated_archive(folder: Path) -> Path:
    source = save(toy_keras.classifier(), folder / "model.keras")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return source


def foreign(folder: Path) -> Path:
    with h5py.File(folder / "table.h5", "w") as file:
        file["table"] = np.zeros((10, 10))
    return folder / "table.h5"


def linked(folder: Path) -> Path:
    source = save(toy_keras.classifier(), folder / "model.h5")
    with h5py.File(source, "r+") as file:
        file["model_weights"]["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    return source


def stored_elsewhere(folder: Path) -> Path:
    source = save(toy_keras.classifier(), folder / "model.h5")
    with h5py.File(source, "r+") as file:
        file["model_weights"].create_dataset("w", (4,), "f4", external=[("/etc/passwd", 0, 16)])
    return source


def enormous(folder: Path) -> Path:
    source = save(toy_keras.classifier(), folder / "model.h5")
    with h5py.File(source, "r+") as file:
        file["model_weights"].create_dataset("w", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")
    return source


def bomb(folder: Path) -> Path:
    source = folder / "bomb.keras"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"")
        with archive.open("config.json", "w") as member:
            for _ in range(80):
                member.write(b" " * (1 << 20))
    return source


def oversized(folder: Path) -> Path:
    with (folder / "large.h5").open("wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(3 * 2**30)
    return folder / "large.h5"


def mismatched(folder: Path) -> Path:
    source = save(toy_keras.classifier(), folder / "model.h5")
    with h5py.File(source, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][-1]["config"]["units"] = 7
        file.attrs["model_config"] = json.dumps(config)
    return source


@pytest.mark.parametrize(
    ("made", "reported"),
    [
        (truncated, "damaged"),
        (truncated_archive, "damaged"),
        (foreign, "no Keras model"),
        (linked, "links to other places"),
        (stored_elsewhere, "weights in other files"),
        (enormous, "more than 2 GiB"),
        (bomb, "unpacks to more than 64 MiB"),
        (oversized, r"3\.0 GiB"),
        (mismatched, "do not fit"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_a_sentence(tmp_path: Path, made: Callable[[Path], Path], reported: str) -> None:
    """Nothing is unpacked past its limit, and no other file is opened."""
    source = made(tmp_path)
    with pytest.raises(ConversionError, match=reported):
        convert(tmp_path, source, **CLASSIFY)


def test_an_archive_that_lies_about_its_size_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unpacked is counted; what the archive states is not believed."""
    monkeypatch.setattr(keras_files, "MAX_WEIGHTS_BYTES", 1000)
    source = save(toy_keras.classifier(), tmp_path / "model.keras")
    with pytest.raises(ConversionError, match="unpacks to more than"):
        convert(tmp_path, source, **CLASSIFY)


def test_insufficient_memory_and_time_are_reported(tmp_path: Path) -> None:
    """The confined process is ended, and nothing is left of it."""
    from slidecascade_convert.conversion import convert as convert_confined

    source = save(toy_keras.classifier(), tmp_path / "model.h5")
    request = ConversionRequest(source=source, name="toy", out=tmp_path / "models", **CLASSIFY)
    with pytest.raises(ConversionError, match="memory"):
        convert_confined(request, memory_bytes=60 * 2**20)
    with pytest.raises(ConversionError, match=r"longer than 0\.2 s"):
        convert_confined(request, time_limit_s=0.2)
    assert not (tmp_path / "models").exists()


def test_the_command_converts_a_keras_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line and the confined process, which has no network where the system lets it."""
    source = save(toy_keras.classifier(), tmp_path / "model.h5")
    out = tmp_path / "models"
    code = main(["convert", str(source), "--name", "toy", "--task", "classify", "--head", "softmax", "--classes",
                 "a,b,c", "--scale", "1/255", "--out", str(out)])  # fmt: skip
    assert code == 0
    assert "Same class on 100.0%" in capsys.readouterr().out
    report = json.loads((out / "toy" / "1" / "parity.json").read_text(encoding="utf-8"))
    assert report["versions"]["saved_by_keras"] == keras.__version__
    assert sorted(path.name for path in out.iterdir()) == ["toy"]
