"""PyTorch files become served packages that answer as the network did."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch", reason="the [convert] extra is not installed")

import torch

import toy_kinds
import toy_torch
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.areas.result import AreasResult
from slidecascade.cancellation import Control
from slidecascade.cli import main
from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from slidecascade_convert.outcome import GRAPH_FILE, Outcome
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.source import SourceFormat, recognise
from slidecascade_convert.torch_networks import network
from slidecascade_convert.worker import convert as convert_here

SEGMENT: dict[str, Any] = {
    "name": "toy",
    "task": "segment",
    "head": "unet",
    "classes": ("Nucleus",),
    "mpp": 0.5,
    "logits": True,
    "normalisation": Normalisation.scaled(1 / 255),
}
CLASSIFY: dict[str, Any] = {
    "name": "toy",
    "task": "classify",
    "head": "softmax",
    "classes": ("a", "b", "c"),
    "input_px": toy_torch.SIDE_PX,
    "normalisation": Normalisation.standardised((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), scale=1 / 255),
}
IMAGES = np.random.default_rng(3).integers(0, 256, (4, 40, 72, 3), np.uint8)


def convert(folder: Path, source: Path, **fields: Any) -> tuple[Outcome, Any]:
    """Convert in this process; the outcome and a function that runs the served graph."""
    outcome = convert_here(
        ConversionRequest(source=source, out=folder / "models", **fields), folder, network_was_reachable=True
    )
    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    return outcome, lambda images: session.run(None, {"image": images})[0]


def maps(model: Any, images: Any) -> Any:
    """What the served segmenter should answer for uint8 images."""
    with torch.no_grad():
        logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255)
    grey = (255 * torch.sigmoid(logits)).round().numpy().transpose(0, 2, 3, 1)
    return np.repeat(grey, 2, axis=3)


def test_weights_of_a_named_classifier_are_served(tmp_path: Path) -> None:
    """A state dict and the function that builds its network: normalised inside, any batch, probabilities out."""
    model = toy_torch.classifier()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    outcome, run = convert(tmp_path, tmp_path / "weights.pth", arch="toy_torch:Classifier", **CLASSIFY)

    images = np.ascontiguousarray(IMAGES[:3, : toy_torch.SIDE_PX, : toy_torch.SIDE_PX])
    pixels = ((images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(run(images), expected, atol=1e-5)
    assert outcome.parity is not None
    assert outcome.parity.versions["torch"] == torch.__version__


def test_the_served_file_contains_nothing_of_the_machine_that_wrote_it(tmp_path: Path) -> None:
    """The exporter's notes hold paths of source files; none is served."""
    torch.save(toy_torch.classifier().state_dict(), tmp_path / "weights.pth")
    convert(tmp_path, tmp_path / "weights.pth", arch="toy_torch:Classifier", **CLASSIFY)
    content = (tmp_path / GRAPH_FILE).read_bytes()
    assert b"toy_torch.py" not in content
    assert b"site-packages" not in content
    dims = onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 24, 24, 3]


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript_is_served_at_any_size(tmp_path: Path, kind: str) -> None:
    """Scripted and traced modules; their maps are those of the module, for sizes that were never tried."""
    model, path = toy_torch.segmenter(), tmp_path / "model.pt"
    toy_torch.scripted(model, traced=kind == "trace").save(path)
    assert recognise(path) is SourceFormat.TORCHSCRIPT
    outcome, run = convert(tmp_path, path, **SEGMENT)
    assert np.abs(run(IMAGES).astype(int) - maps(model, IMAGES)).max() <= 1
    assert outcome.multiple_of in (1, 2)


def test_an_exported_program_is_served(tmp_path: Path) -> None:
    """A .pt2 file with open sizes."""
    path = toy_torch.program(tmp_path / "model.pt2")
    assert recognise(path) is SourceFormat.TORCH_PROGRAM
    _, run = convert(tmp_path, path, **SEGMENT)
    assert np.abs(run(IMAGES).astype(int) - maps(toy_torch.segmenter(), IMAGES)).max() <= 1


def test_a_program_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    """The default of torch.export."""
    path = toy_torch.program(tmp_path / "model.pt2", **{"2": torch.export.Dim.DYNAMIC})
    with pytest.raises(ConversionError, match="exported for a batch of 2: export it with dynamic_shapes"):
        convert(tmp_path, path, **SEGMENT)


@pytest.mark.slow
def test_the_kidney_network_is_converted_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small UneXt, its weights in a fastai checkpoint, built by a function in the caller's folder."""
    monkeypatch.chdir(tmp_path)
    shape = "UnextShape(blocks=(1, 1, 1, 1), groups=2, group_width=2, base=4, pyramid=2)"
    code = f"from slidecascade_convert.torch_unext import *\nsmall = lambda: Unext({shape})\n"
    Path("kidney_network.py").write_text(code, encoding="utf-8")
    torch.save({"model": toy_torch.small_unext().state_dict(), "opt": {"state": {}}}, "unext.pth")
    reported = [
        "--name",
        "glomeruli",
        "--task",
        "segment",
        "--head",
        "unet",
        "--classes",
        "Glomerulus",
        "--mpp",
        "4",
    ]
    reported += [
        "--mean",
        "0.65,0.48,0.69",
        "--std",
        "0.15,0.2,0.13",
        "--logits",
        "--arch",
        "kidney_network:small",
    ]
    assert main(["convert", "unext.pth", *reported, "--out", "models"]) == 0
    assert "Objects: none on these tiles" in capsys.readouterr().out  # its weights are random
    assert "multiple_of: 32" in Path("models/glomeruli/model.yaml").read_text(encoding="utf-8")


def test_the_named_network_has_the_published_size() -> None:
    """UneXt101 with the 32x16d encoder, and the names that fastai and torchvision gave its weights."""
    with torch.device("meta"):
        model = network("unext101")
    names = model.state_dict()
    # Those of resnext101_32x16d without its last layer.
    assert sum(each.numel() for name, each in model.named_parameters() if name.startswith("enc")) == 191_977_792
    assert names["enc3.22.conv2.weight"].shape == (2048, 64, 3, 3)
    assert {"aspp.aspps.4.atrous_conv.weight", "dec4.conv1.0.weight", "fpn.convs.0.3.bias"} <= names.keys()


def test_the_resnet_unet_has_the_published_names_and_size() -> None:
    """Those of segmentation_models.pytorch's Unet with its default encoder: 24,436,369 weights."""
    with torch.device("meta"):
        model = network("resnet34-unet")
    names = model.state_dict()
    assert sum(each.numel() for each in model.parameters()) == 24_436_369
    # Those of torchvision's resnet34 without its last layer.
    encoder = sum(each.numel() for name, each in model.named_parameters() if name.startswith("encoder"))
    assert encoder == 21_797_672 - 513_000
    assert names["decoder.blocks.0.conv1.0.weight"].shape == (256, 768, 3, 3)
    assert {
        "encoder.layer4.2.bn2.running_var",
        "decoder.blocks.4.conv2.1.bias",
        "segmentation_head.0.bias",
    } <= set(names)


LARGE = "SLIDECASCADE_TEST_LARGE"
"""Set by `make test-large`: UneXt101 was measured to take 6.8 GiB, which the tests beside it may not leave."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "prefix"), [("resnet34-unet", "model."), ("unext101", "")], ids=["resnet34-unet", "unext101"]
)
def test_full_size_networks_are_converted_and_find_areas(tmp_path: Path, arch: str, prefix: str) -> None:
    """Random weights of the full size, in a checkpoint of weights alone, through to the areas of an image."""
    if arch == "unext101" and not os.environ.get(LARGE):
        pytest.skip("UneXt101 at its full size takes 7 GiB and minutes: make test-large runs it")
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    model = network(arch)
    torch.save({prefix + name: each for name, each in model.state_dict().items()}, path)
    del model
    reported = [
        "--name",
        "toy",
        "--task",
        "segment",
        "--head",
        "semantic",
        "--classes",
        "Glomerulus",
        "--mpp",
        "4",
    ]
    reported += ["--mean", "0.65,0.48,0.69", "--std", "0.15,0.2,0.13", "--logits", "--arch", arch]
    assert main(["convert", str(path), *reported, "--out", str(tmp_path / "models")]) == 0
    pipeline = {
        "name": "glomeruli",
        "kind": "areas",
        "title": "Glomeruli",
        "description": "Random.",
        "segmenter": "toy",
        "min_area_um2": 0.0,
        "heatmaps": [{"name": "part", "title": "Part", "class": "Glomerulus"}],
    }
    pipelines = toy_kinds.write_pipelines(tmp_path / "pipelines", pipeline)
    settings = Settings.model_validate({"models_dir": tmp_path / "models", "pipelines_dir": pipelines})
    analyser = Analyser(settings, observer=Silent())
    try:
        image = bytes(cv2.imencode(".png", toy_kinds.coloured(1, 256, 256, 9))[1])
        request = wire.parse_request({"pipeline": "glomeruli", "mpp": 4.0})
        found = analyser.analyse(request, image, Control()).analysis
    finally:
        analyser.close()
    assert isinstance(found, AreasResult)
    assert found.areas_px.sum() == found.runs.pixels(len(found.areas_px)).sum()
    assert np.isfinite(found.probabilities).all()


def test_weights_alone_need_the_network_they_are_for(tmp_path: Path) -> None:
    """Nothing is guessed: not the architecture, not one of another framework, not the size of a classifier."""
    torch.save(toy_torch.classifier().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(
        InvalidRequestError, match=r"holds weights alone.*--arch unext50\|unext101\|resnet34-unet or"
    ):
        convert(tmp_path, tmp_path / "weights.pth", **CLASSIFY)
    with pytest.raises(InvalidRequestError, match="no PyTorch architecture 'xception-72'"):
        convert(tmp_path, tmp_path / "weights.pth", arch="xception-72", **CLASSIFY)
    with pytest.raises(InvalidRequestError, match="--input-size"):
        convert(tmp_path, tmp_path / "weights.pth", arch="toy_torch:Classifier", **CLASSIFY | {"input_px": None})


@pytest.mark.parametrize(
    ("arch", "reported"),
    [
        ("toy_torch:absent", "cannot be called without arguments in this folder: module 'toy_torch' has no"),
        ("no_such_module:build", "No module named 'no_such_module'"),
        ("toy_torch:program", "missing 1 required positional argument"),
        ("collections:OrderedDict", "returns OrderedDict: return a torch.nn.Module"),
    ],
)
def test_what_cannot_build_a_network_is_named(arch: str, reported: str) -> None:
    """The caller's own mistakes, in one sentence."""
    with pytest.raises(ConversionError, match=reported):
        network(arch)


def test_a_missing_torch_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch is required only for its own files."""
    torch.save(toy_torch.classifier().state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr("slidecascade.commands.convert.find_spec", lambda name: None if name == "torch" else name)
    reported = ["--name", "toy", "--task", "classify", "--head", "softmax", "--classes", "a,b"]
    assert main(["convert", str(tmp_path / "weights.pth"), *reported]) != 0
    assert "torch is not installed: install the extra 'convert'" in capsys.readouterr().err
