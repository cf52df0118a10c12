"""Networks of published libraries at their full size, from the files these libraries save, to served requests."""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tifffile
import yaml
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the [convert] extra is not installed")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import torch

import library_weights
import stardist_folder
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.commands import convert as command
from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade.models.repository import model_yaml
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from slidecascade_convert.libraries.convert import convert_library
from slidecascade_convert.libraries.detections import paired
from slidecascade_convert.libraries.stardist import open_stardist
from slidecascade_convert.library_request import LibraryRequest
from slidecascade_convert.outcome import GRAPH_FILE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4
NOISE = np.random.default_rng(8).random((2, 1, 96, 64), np.float32)


def convert(source: Path, out: Path, *options: str) -> dict[str, Any]:
    """``slidecascade convert SOURCE --name net OPTIONS``; the ``model.yaml`` it wrote."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(source), "--name", "net", "--out", str(out), *options]))
    return dict(yaml.safe_load((out / "net" / "model.yaml").read_text()))


def convert_here(source: Path, out: Path, *options: str) -> tuple[dict[str, Any], Path]:
    """The same without a process of its own and without a package: the specification, and the graph."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args([str(source), "--name", "net", *options])
    out.mkdir(exist_ok=True)
    request = command.request_of(arguments)
    assert isinstance(request, LibraryRequest)
    outcome = convert_library(request, out, network_was_reachable=True)
    assert outcome.library is not None
    return yaml.safe_load(model_yaml(outcome.library.spec)), out / GRAPH_FILE


def outputs(models: Path, image: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    path = models / "net" / "1" / "model.onnx" if models.is_dir() else models
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """In units of the larger of 1 and the greatest value."""
    assert expected.shape == found.shape
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def answered(folder: Path, channels: dict[str, Any], *, mpp: float = 0.5) -> None:
    """Ask for a region of a stack of two channels, by a pipeline of the model in `folder`."""
    pipeline = {
        "name": "toy", "title": "Toy", "description": "A converted network.", "segmenter": "net",
        "heatmaps": [{"name": "d", "title": "D", "kind": "density", "classes": ["Nucleus"]}],
    }  # fmt: skip
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "toy.yaml").write_text(yaml.safe_dump(pipeline))
    stream = io.BytesIO()
    counts = np.random.default_rng(2).integers(0, 4096, (2, 96, 128), np.uint16)
    tifffile.imwrite(stream, counts, photometric="minisblack")
    settings = Settings(models_dir=folder, pipelines_dir=folder / "pipelines", threads=2)
    analyser = Analyser(settings, observer=Silent())
    try:
        request = wire.parse_request({"pipeline": "toy", "mpp": mpp, "channels": channels})
        report = analyser.analyse(request, stream.getvalue(), Control())
    finally:
        analyser.close()
    assert report.analysis.tiles.failed == ()


def saved(folder: Path, weights: library_weights.Weights, name: str = "weights.pth") -> Path:
    torch.save(weights, folder / name)
    return folder / name


def test_a_cellpose_network_arrives_with_its_diameter_and_thresholds(tmp_path: Path) -> None:
    """Of cells of 30 px, with its second channel empty."""
    weights = library_weights.cpnet()
    assert sum(value.numel() for name, value in weights.items() if ".running" not in name) > 6_000_000
    models = tmp_path / "models"
    stated = convert(saved(tmp_path, weights, "cyto3"), models, "--diameter", "15")
    assert stated["mpp"] == 0.5
    assert stated["object_diameter_px"] == 30
    assert (stated["head"], stated["options"]) == (
        "flows",
        {"foreground": 0.5, "flow_error": 0.4, "min_area_um2": 3.75},
    )
    assert stated["inputs"][0]["channels"] == ["cytoplasm"]
    assert stated["inputs"][0]["percentiles"] == [1, 99]
    image = torch.from_numpy(NOISE)
    with torch.no_grad():
        expected = library_weights.cpnet_answer(weights, torch.cat([image, torch.zeros_like(image)], dim=1))
    assert difference(expected.numpy(), outputs(models, NOISE)["flows"]) <= TOLERANCE
    assert (models / "net" / "1" / "tryout.png").read_bytes().startswith(b"\x89PNG")
    answered(models, {"cytoplasm": 1})


def test_a_cellpose_network_takes_two_channels_in_its_order(tmp_path: Path) -> None:
    """A small one, of nuclei of 17 px by its diameter, at a stated pixel size."""
    weights = library_weights.cpnet(widths=(8, 16, 24), diameter_px=17.0)
    both = np.concatenate([NOISE, NOISE[::-1]], axis=1)
    source = saved(tmp_path, {f"module.{name}": value for name, value in weights.items()})
    options = ["--mpp", "0.4"]
    both_named = ["--arch", "cpnet", "--input-channels", "cytoplasm,nuclear", "--halo", "40"]
    stated, graph = convert_here(source, tmp_path, *options, *both_named)
    assert (stated["mpp"], stated["object_diameter_px"], stated["halo_px"]) == (0.4, 17, 40)
    with torch.no_grad():
        expected = library_weights.cpnet_answer(weights, torch.from_numpy(both), levels=3)
    assert difference(expected.numpy(), outputs(graph, both)["flows"]) <= TOLERANCE
    assert convert_here(source, tmp_path, *options)[0]["inputs"][0]["channels"] == ["nuclear"]


@pytest.mark.parametrize(
    ("blocks", "parameters"), [(library_weights.U2NETP, 1_131_181), (library_weights.U2NET, 44_009_869)]
)
def test_a_u2net_gives_the_first_of_its_maps(
    tmp_path: Path, blocks: dict[str, tuple[int, ...]], parameters: int
) -> None:
    """Both forms, of one grey channel as its loader gives it; the sizes are those the project states."""
    weights = library_weights.u2net(blocks)
    assert parameters == sum(
        value.numel() for name, value in weights.items() if not name.endswith(("_mean", "_var", "_tracked"))
    )
    stated, graph = convert_here(saved(tmp_path, weights), tmp_path, "--mpp", "0.5")
    assert (stated["head"], stated["options"]) == ("semantic", {"foreground": 0.5, "output": "d0"})
    given = (torch.from_numpy(NOISE).repeat(1, 3, 1, 1) - 0.485) / 0.229
    with torch.no_grad():
        expected = library_weights.u2net_answer(weights, given, blocks)
    assert difference(expected.numpy(), outputs(graph, NOISE)["d0"]) <= TOLERANCE


def test_a_u2net_of_colours_is_served(tmp_path: Path) -> None:
    """Normalised as in its training; from its file to a region."""
    weights = library_weights.u2net()
    pixels = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    models = tmp_path / "models"
    convert(saved(tmp_path, weights), models, "--mpp", "0.5", "--input-channels", "red,green,blue")
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    given = ((torch.from_numpy(pixels) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = library_weights.u2net_answer(weights, given)
    assert difference(expected.numpy(), outputs(models, pixels)["d0"]) <= TOLERANCE
    answered(models, {"red": 0, "green": 1, "blue": 1})


def test_torchvisions_mask_r_cnn_arrives_with_its_thresholds(tmp_path: Path) -> None:
    """At its full size, by the names of the published files; `golden/maskrcnn.npz` is what torchvision
    0.29.1 found.

    Boxes, scores and labels of pairs, and the masks of the first ones. Nearly equal boxes that both have to
    choose between may leave single detections without a partner on another processor.
    """
    weights = library_weights.maskrcnn(classes=3, old_names=True)
    assert sum(value.numel() for value in weights.values()) > 44_000_000
    models = tmp_path / "models"
    stated = convert(saved(tmp_path, weights), models, "--mpp", "0.5")
    assert (stated["head"], stated["options"]) == (
        "maskrcnn",
        {"foreground": 0.05, "detections": 100, "mask_px": 28, "mask_threshold": 0.5, "overlap": 0.5, "label": 1},
    )
    with np.load(GOLDEN / "maskrcnn.npz") as file:
        golden = dict(file)
    count, shown = len(golden["scores"]), len(golden["masks"])
    assert shown < count < 100
    found = outputs(models, golden.pop("image")[None, None])
    golden["masks"] = np.concatenate([golden["masks"], np.zeros((count - shown, 28, 28), np.float32)])
    both = paired({name: values[None] for name, values in golden.items()}, found)
    assert 2 * len(both.first["scores"]) / sum(both.counts) >= 0.98
    assert all(difference(both.first[name], both.second[name]) <= TOLERANCE for name in ("boxes", "scores"))
    has_mask = both.first["masks"].any(axis=(1, 2))
    assert has_mask.sum() >= shown - 1
    assert difference(both.first["masks"][has_mask], both.second["masks"][has_mask]) <= TOLERANCE
    answered(models, {"nuclear": 0})


def test_detections_are_compared_in_pairs() -> None:
    """Of one label and within half a pixel; another label, another place and an unused row have no partner."""
    boxes = np.array([[[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [0, 0, 0, 0]]], np.float32)
    first = {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.8, 0.7, 0]], np.float32),
        "labels": np.array([[1, 1, 1, 0]]),
    }
    second = {
        "boxes": boxes[:, [1, 0, 2, 3]] + np.array([0.25, 0, 0, 0], np.float32),
        "scores": np.array([[0.8, 0.9, 0.7, 0]], np.float32),
        "labels": np.array([[1, 1, 2, 0]]),
    }
    both = paired(first, second)
    assert both.counts == (3, 3)
    assert both.first["scores"].tolist() == both.second["scores"].tolist() == first["scores"][0, :2].tolist()
    second["boxes"] = second["boxes"] + np.float32(1)
    assert not len(paired(first, second).first["scores"])


def test_a_stardist_folder_arrives_with_its_thresholds(tmp_path: Path) -> None:
    """At StarDist's default size, with the weights that Keras 2 writes."""
    folder = stardist_folder.written(tmp_path / "source" / "2D_versatile")
    models = tmp_path / "models"
    stated = convert(folder, models, "--mpp", "0.5", "--licence", "BSD-3-Clause")
    assert stated["head"] == "stardist"
    assert stated["options"] == {"foreground": 0.4790708, "overlap": 0.31, "grid": 2, "rays": 32}
    assert [(output["name"], output["stride"]) for output in stated["outputs"]] == [("prob", 2), ("dist", 2)]
    with np.load(tmp_path / "source" / "answers.npz") as answers:
        found = outputs(models, answers["images"])
        assert max(difference(answers[name], found[name]) for name in ("prob", "dist")) <= TOLERANCE
    answered(models, {"nuclear": 0})


SMALL = library_weights.cpnet(widths=(8, 16))


def spoiled(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoiled("config.json", "{"), "config.json is not that of a StarDist model"),
        (spoiled("config.json", '{"n_dim": 3}'), "n_dim"),
        (spoiled("config.json", '{"backbone": "resnet"}'), "backbone"),
        (spoiled("config.json", '{"grid": [2, 4]}'), "two different steps"),
        (spoiled("config.json", '{"unet_n_depth": 2}'), "do not fit config.json"),
        (spoiled("thresholds.json", '{"prob": 7}'), "thresholds.json"),
        (spoiled("weights_best.h5", "<html>"), "damaged"),
    ],
)
def test_a_damaged_stardist_folder_is_rejected_in_a_sentence(
    tmp_path: Path, one_stardist: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = Path(shutil.copytree(one_stardist, tmp_path / "folder"))
    spoil(folder)
    request = LibraryRequest(source=folder, name="net", out=tmp_path, library=None, classes=("Nucleus",), mpp=0.5)
    with pytest.raises(ConversionError, match=says):
        open_stardist(request, tmp_path)


@pytest.fixture(scope="module")
def one_stardist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stardist_folder.written(tmp_path_factory.mktemp("stardist") / "folder")


@pytest.mark.parametrize(
    ("weights", "options", "says"),
    [
        (SMALL, [], "add --mpp"),
        (
            library_weights.cpnet(widths=(8, 16)),
            ["--mpp", "0.5", "--input-channels", "a,b,c"],
            "at most 2 channels",
        ),
        (SMALL, ["--mpp", "0.5", "--diameter", "9"], "give one of them"),
        (SMALL, ["--arch", "u2net", "--mpp", "0.5"], "neither a U2-Net nor"),
        (SMALL, ["--arch", "stardist", "--mpp", "0.5"], "saved as another"),
        (library_weights.u2net(), ["--mpp", "0.5", "--input-channels", "a,b"], "colours or at one channel"),
        (library_weights.u2net() | {"side1.weight": torch.zeros(2, 2)}, ["--mpp", "0.5"], "side1.weight"),
        ({"roi_heads.x": torch.zeros(2)}, ["--mpp", "0.5"], "no maskrcnn_resnet50_fpn"),
        ({"fc.weight": torch.zeros(2, 2)}, [], "state --task, --head"),
        (SMALL, ["--scale", "1/255"], "takes no --scale"),
        (SMALL, ["--max-loss", "0.01"], "takes no --max-loss"),
        (library_weights.u2net(), ["--diameter", "9"], "--diameter is for a CPnet"),
        (SMALL, ["--task", "segment"], "its output's meaning with --head"),
    ],
)
def test_what_cannot_be_converted_is_said_in_a_sentence(
    tmp_path: Path, weights: library_weights.Weights, options: list[str], says: str
) -> None:
    with pytest.raises((ConversionError, InvalidRequestError), match=says):
        convert_here(saved(tmp_path, weights), tmp_path / "graph", *options)
    assert not (tmp_path / "graph" / GRAPH_FILE).exists()


MESMER_PX = 256


def mesmer(folder: Path, side_px: int | None, compartments: int = 2) -> tuple[Path, Any]:
    """A SavedModel as Keras writes it, of Mesmer's input and outputs; and its serving function.

    Its network is a stand-in of two convolutions: Mesmer's own weights and architecture stay its users'.
    """
    import tensorflow as tf
    from keras import Input, Model, layers

    image = Input((side_px, side_px, 2), name="input_0")
    body = layers.Conv2D(16, 5, padding="same", activation="relu")(image)
    outputs = [
        layers.Conv2D(
            channels, 3, padding="same", activation="softmax" if channels == 3 else "sigmoid", name=f"semantic_{i}"
        )(body)
        for i, channels in enumerate((1, 3) * compartments)
    ]
    model = Model(image, outputs)
    spec = tf.TensorSpec([None, side_px, side_px, 2], tf.float32, name="input_0")

    def serve(input_0: Any) -> dict[str, Any]:
        return {f"semantic_{i}": value for i, value in enumerate(model(input_0, training=False))}

    served = tf.function(serve, input_signature=[spec])
    tf.saved_model.save(model, str(folder / "saved"), signatures=served.get_concrete_function())
    return folder / "saved", model


def test_a_saved_model_with_mesmers_outputs_runs_on_windows(tmp_path: Path) -> None:
    """Of 256 px, whose middles join to an image of another size; the published thresholds arrive."""
    source, model = mesmer(tmp_path, MESMER_PX)
    models = tmp_path / "models"
    stated = convert(source, models)
    assert (stated["mpp"], stated["options"]) == (
        0.5,
        {"foreground": 0.2, "compartment": "whole-cell", "maximum": 0.075},
    )
    assert stated["inputs"][0]["channels"] == ["nuclear", "membrane"]
    names = [output["name"] for output in stated["outputs"]]
    assert names[0] == "whole_cell_inner_distance"
    assert names[3] == "nuclear_pixelwise"
    image = np.random.default_rng(4).random((2, 256, 384, 2), np.float32)
    found = outputs(models, image)
    # What lies around the middle of a window is seen by it, and mirrored at the image's edge.
    padded = np.pad(image, ((0, 0), (64, 64), (64, 64), (0, 0)), mode="symmetric")
    window = padded[:, 128:384, 128:384]
    for name, expected in zip(names, model(window), strict=True):
        middle = np.asarray(expected)[:, 64:192, 64:192]
        assert difference(middle, found[name][:, 128:256, 128:256]) <= TOLERANCE
    answered(models, {"nuclear": 0, "membrane": 1})


def test_a_saved_model_of_any_size_runs_as_it_is(tmp_path: Path) -> None:
    """And may find whole cells only."""
    source, model = mesmer(tmp_path, None, compartments=1)
    stated, graph = convert_here(source, tmp_path, "--arch", "mesmer", "--input-channels", "DAPI,CD45")
    names = [output["name"] for output in stated["outputs"]]
    assert names == ["whole_cell_inner_distance", "whole_cell_pixelwise"]
    image = np.random.default_rng(4).random((1, 128, 256, 2), np.float32)
    for name, expected in zip(names, model(image), strict=True):
        assert difference(np.asarray(expected), outputs(graph, image)[name]) <= TOLERANCE
    with pytest.raises(InvalidRequestError, match="--diameter is for a CPnet"):
        convert_here(source, tmp_path / "other", "--diameter", "9")
