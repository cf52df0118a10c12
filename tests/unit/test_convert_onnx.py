"""ONNX files of every age and layout become served packages, or are refused in one sentence."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import toy_onnx
from slidecascade.cli import main
from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade.models.repository import load_package
from slidecascade.runners.local import LocalRunner
from slidecascade_convert.outcome import GRAPH_FILE, Outcome
from slidecascade_convert.quantize import is_worth_it
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.worker import convert as convert_here

CLASSIFY: dict[str, Any] = {"name": "toy", "task": "classify", "head": "softmax", "classes": ("a", "b", "c")}
SEGMENT: dict[str, Any] = {"name": "toy", "task": "segment", "head": "unet", "classes": ("Nucleus",)}
SCALED = Normalisation.scaled(1 / 255)
IMAGES = np.random.default_rng(3).integers(0, 256, (4, 24, 24, 3), np.uint8)


def convert(folder: Path, made: onnx.ModelProto, **fields: Any) -> tuple[Outcome, Any]:
    """Convert in this process; the outcome and a function that runs the served graph."""
    source = toy_onnx.save(folder, made)
    outcome = convert_here(
        ConversionRequest(source=source, out=folder / "models", **fields), folder, network_was_reachable=True
    )
    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    return outcome, lambda images: session.run(None, {"image": images})[0]


def run_original(made: onnx.ModelProto, pixels: Any) -> Any:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("opset", [9, 12, 17, 20])
def test_a_classifier_of_any_age_and_layout_is_served(tmp_path: Path, layout: str, opset: int) -> None:
    """The served graph takes uint8 RGB and gives the original's probabilities for the normalised pixels."""
    made = toy_onnx.classifier(layout=layout, opset=opset)
    normalisation = Normalisation.standardised((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), scale=1 / 255)
    outcome, run = convert(tmp_path, made, normalisation=normalisation, **CLASSIFY)

    pixels = ((IMAGES / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).astype(np.float32)
    expected = run_original(made, pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else pixels)
    assert outcome.height_px == outcome.width_px == 24
    np.testing.assert_allclose(run(IMAGES), expected, atol=1e-5)


def test_the_file_states_its_source(tmp_path: Path) -> None:
    """Names of tensors and dimensions, and metadata: source, opset, arguments, versions."""
    convert(tmp_path, toy_onnx.classifier(opset=11), normalisation=SCALED, **CLASSIFY)
    served = onnx.load(tmp_path / GRAPH_FILE)
    dims = [dim.dim_param or dim.dim_value for dim in served.graph.input[0].type.tensor_type.shape.dim]
    reported = {item.key: item.value for item in served.metadata_props}
    assert (served.graph.input[0].name, dims) == ("image", ["N", 24, 24, 3])
    assert served.graph.output[0].name == "probabilities"
    assert (reported["opset"], reported["version.source_opset"], reported["classes"]) == ("17", "11", "a,b,c")
    assert len(reported["source.sha256"]) == 64
    assert reported["pixel_factor"].startswith("0.00392156")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_frozen_batch_is_freed(tmp_path: Path, batch: int) -> None:
    """A graph exported for a batch of so many images, in its reshapes too, takes any number."""
    _, run = convert(tmp_path, toy_onnx.classifier(batch=batch), normalisation=SCALED, **CLASSIFY)
    assert run(IMAGES[:3]).shape == (3, 3)


def test_half_precision_and_uint8_inputs_are_fed_their_own_type(tmp_path: Path) -> None:
    """A float16 network gets float16 and its output is returned as float32."""
    made = toy_onnx.classifier(element=np.float16)
    _, run = convert(tmp_path, made, normalisation=SCALED, **CLASSIFY)
    assert run(IMAGES).dtype == np.float32


def test_a_network_that_takes_bytes_keeps_its_own_normalisation(tmp_path: Path) -> None:
    """uint8 in, no normalisation added; asking for one is a contradiction."""
    made = toy_onnx.classifier()
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    made.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["cast"], to=1))
    made.graph.node[1].input[0] = "cast"
    _, run = convert(tmp_path, made, **CLASSIFY)
    np.testing.assert_allclose(run(IMAGES), run_original(made, IMAGES.transpose(0, 3, 1, 2)), atol=1e-5)
    with pytest.raises(InvalidRequestError, match="leave --scale"):
        convert(tmp_path, made, normalisation=SCALED, **CLASSIFY)


def test_logits_get_the_activation_of_the_head(tmp_path: Path) -> None:
    """Without --logits the numbers are refused; with it they become probabilities."""
    made = toy_onnx.classifier(ending="")
    with pytest.raises(ConversionError, match=r"no probabilities: add --logits to apply the softmax"):
        convert(tmp_path, made, **CLASSIFY)
    _, run = convert(tmp_path, made, normalisation=SCALED, logits=True, **CLASSIFY)
    np.testing.assert_allclose(run(IMAGES).sum(axis=1), 1, atol=1e-5)


def test_one_sigmoid_unit_is_two_classes(tmp_path: Path) -> None:
    """``[1 - p, p]`` in the order of --classes."""
    made = toy_onnx.classifier(classes=1, ending="Sigmoid")
    fields = CLASSIFY | {"head": "sigmoid", "classes": ("benign", "malignant")}
    _, run = convert(tmp_path, made, normalisation=SCALED, **fields)
    p = run_original(made, (IMAGES / 255).astype(np.float32).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(run(IMAGES), np.concatenate([1 - p, p], axis=1), atol=1e-5)


def test_several_sigmoids_do_not_sum_to_one(tmp_path: Path) -> None:
    """They are served as they are by the head sigmoid, and refused by the head softmax."""
    made = toy_onnx.classifier(ending="Sigmoid")
    with pytest.raises(ConversionError, match="do not sum to one"):
        convert(tmp_path, made, normalisation=SCALED, **CLASSIFY)
    _, run = convert(tmp_path, made, normalisation=SCALED, **CLASSIFY | {"head": "sigmoid"})
    assert run(IMAGES).shape == (4, 3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("channels", "opset"), [(1, 9), (2, 13), (1, 18)])
def test_a_segmenter_of_any_size_is_served(tmp_path: Path, layout: str, channels: int, opset: int) -> None:
    """uint8 maps of foreground and interior at every even size; one channel is both."""
    made = toy_onnx.segmenter(layout=layout, channels=channels, opset=opset)
    outcome, run = convert(tmp_path, made, normalisation=SCALED, **SEGMENT)
    maps = run(IMAGES[:, :22])
    assert outcome.multiple_of == 2
    assert (maps.dtype, maps.shape) == (np.uint8, (4, 22, 24, 2))
    assert (maps[..., 0] == maps[..., 1]).all() == (channels == 1)
    assert outcome.parity is not None
    assert outcome.parity.agreement.object_agreement == 1.0
    assert len(outcome.parity.agreement.sizes_px) == 3


@pytest.mark.parametrize(("channels", "chosen"), [(1, ()), (2, (1,))])
def test_a_foreground_map_is_served_to_the_semantic_head(
    tmp_path: Path, channels: int, chosen: tuple[int, ...]
) -> None:
    """One uint8 map; of several, the one that --channels names."""
    made = toy_onnx.segmenter(channels=channels)
    fields = SEGMENT | {"head": "semantic", "normalisation": SCALED}
    outcome, run = convert(tmp_path, made, channels=chosen, **fields)
    maps = run(IMAGES)
    pixels = (IMAGES / 255).astype(np.float32).transpose(0, 3, 1, 2)
    expected = np.round(255 * run_original(made, pixels)[:, -1])
    assert maps.shape == (4, 24, 24, 1)
    assert np.abs(maps[..., 0] - expected).max() <= 1
    assert outcome.parity is not None
    assert outcome.parity.agreement.object_agreement == 1.0
    assert not outcome.parity.notes
    with pytest.raises((ConversionError, InvalidRequestError), match="--channels"):
        convert(tmp_path, toy_onnx.segmenter(channels=2), channels=(0, 1) if chosen else (), **fields)


def test_half_precision_is_kept_inside_the_network(tmp_path: Path) -> None:
    """--fp16 halves the weights; what goes in and out keeps its type, and the difference is measured."""
    made = toy_onnx.classifier()
    outcome, run = convert(tmp_path, made, normalisation=SCALED, fp16=True, **CLASSIFY)
    pixels = (IMAGES / 255).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(run(IMAGES), run_original(made, pixels), atol=5e-3)
    assert run(IMAGES).dtype == np.float32
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / GRAPH_FILE).graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    assert outcome.parity is not None
    assert outcome.parity.agreement.tolerance == 5e-3
    onnx.checker.check_model(onnx.load(tmp_path / GRAPH_FILE), full_check=True)
    outcome, _ = convert(tmp_path, toy_onnx.segmenter(channels=2), normalisation=SCALED, fp16=True, **SEGMENT)
    assert outcome.parity is not None
    assert outcome.parity.agreement.max_abs < 5e-3
    with pytest.raises(InvalidRequestError, match="int8"):
        convert(tmp_path, made, fp16=True, int8=True, calibrate=tmp_path, **CLASSIFY)


def test_bgr_networks_are_given_bgr(tmp_path: Path) -> None:
    """--bgr turns the channels inside the graph."""
    made = toy_onnx.classifier()
    _, run = convert(tmp_path, made, normalisation=SCALED, bgr=True, **CLASSIFY)
    pixels = (IMAGES[..., ::-1] / 255).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(run(IMAGES), run_original(made, pixels), atol=1e-5)


def test_a_network_that_goes_by_red_is_warned_about(tmp_path: Path) -> None:
    """The colour-swap test: the class is the brightest channel, so that exchanging red and blue changes it."""
    made = toy_onnx.classifier()
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["answer"]),
    ]
    output = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3])
    made = toy_onnx.model(nodes, [], ["n", 3, 24, 24], output)
    outcome, _ = convert(tmp_path, made, normalisation=SCALED, **CLASSIFY)
    assert outcome.parity is not None
    assert outcome.parity.colour_swap_changes == 1.0
    assert "red and blue are exchanged" in outcome.parity.warnings[0]


def test_a_comparison_that_shows_little_is_warned_about(tmp_path: Path) -> None:
    """Pixels of 0 to 1/255 instead of 0 to 1 all look alike to a network: the usual wrong --scale."""
    tiny = Normalisation.scaled(1 / 255**2)
    outcome, _ = convert(tmp_path, toy_onnx.classifier(), normalisation=tiny, **CLASSIFY)
    assert outcome.parity is not None
    assert "all tiles the same probabilities" in outcome.parity.warnings[-1]
    assert "check --scale" in outcome.parity.warnings[-1]
    black = toy_onnx.segmenter()
    black.graph.initializer.extend([numpy_helper.from_array(np.float32(0), "nothing")])
    black.graph.node.append(helper.make_node("Mul", [black.graph.output[0].name, "nothing"], ["black"]))
    black.graph.output[0].name = "black"
    outcome, _ = convert(tmp_path, black, normalisation=SCALED, **SEGMENT)
    assert outcome.parity is not None
    assert "finds no objects on the tiles" in outcome.parity.warnings[-1]


def test_weights_beside_the_source_are_taken_in(tmp_path: Path) -> None:
    """External data in the source's folder is inlined; elsewhere it is refused, whatever the path says."""
    made = toy_onnx.classifier()
    expected = run_original(made, (IMAGES / 255).astype(np.float32).transpose(0, 3, 1, 2))
    inside = tmp_path / "inside"
    inside.mkdir()
    onnx.save_model(made, inside / "source.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    request = ConversionRequest(source=inside / "source.onnx", out=tmp_path, normalisation=SCALED, **CLASSIFY)
    convert_here(request, tmp_path, network_was_reachable=True)
    session = onnxruntime.InferenceSession(tmp_path / GRAPH_FILE, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": IMAGES})[0], expected, atol=1e-5)

    (inside / "w.bin").rename(tmp_path / "w.bin")
    for location in ("w.bin", "../w.bin", str(tmp_path / "w.bin")):
        moved = onnx.load(inside / "source.onnx", load_external_data=False)
        for tensor in moved.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        (inside / "source.onnx").write_bytes(moved.SerializeToString())
        with pytest.raises(ConversionError, match="not a file in the source's folder"):
            convert_here(request, tmp_path, network_was_reachable=True)


def lacking_operator() -> onnx.ModelProto:
    made = toy_onnx.classifier()
    made.graph.node[-1].CopyFrom(helper.make_node("MyActivation", ["logits"], ["answer"], domain="com.example"))
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    return made


def answering_nan() -> onnx.ModelProto:
    made = toy_onnx.classifier()
    for tensor in made.graph.initializer:
        if tensor.name == "dense":
            tensor.CopyFrom(numpy_helper.from_array(np.full((6, 3), np.nan, np.float32), "dense"))
    return made


def of_a_table() -> onnx.ModelProto:
    nodes = [helper.make_node("Softmax", ["pixels"], ["answer"])]
    return toy_onnx.model(
        nodes, [], ["n", 3], helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3])
    )


@pytest.mark.parametrize(
    ("made", "fields", "reported"),
    [
        (lacking_operator, {}, r"operator com\.example:MyActivation, which ONNX Runtime does not have"),
        (answering_nan, {}, "values that are not numbers"),
        (of_a_table, {}, r"shape \(None, 3\)"),
        (toy_onnx.classifier, {"classes": ("a", "b")}, "3 outputs and --classes names 2"),
        (toy_onnx.classifier, {"input_px": 72}, "24 px, not at 72"),
        (toy_onnx.classifier, SEGMENT, "24 x 24 px, too few"),
        (lambda: toy_onnx.classifier(side_px=64), SEGMENT, "convert it with --task classify"),
        (lambda: toy_onnx.classifier(side_px=0), {}, "state the size of its training images with --input-size"),
        (lambda: toy_onnx.classifier(opset=8), {}, "opset 8"),
        (lambda: toy_onnx.segmenter(channels=3), SEGMENT, "3 output channels: state which"),
        (lambda: toy_onnx.segmenter(channels=3), SEGMENT | {"channels": (3,)}, "correct --channels"),
        (lambda: toy_onnx.segmenter(size=(20, 200)), SEGMENT, "200 x 20 px, too few"),
        (toy_onnx.segmenter, {"input_px": 64}, "convert it with --task segment"),
        (toy_onnx.classifier, {"lambdas": {"rescale": 2.0}}, "--lambda is for Keras files"),
        (toy_onnx.classifier, {"arch": "xception-72"}, "--arch names the network of a file of weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(
    tmp_path: Path, made: Any, fields: dict[str, Any], reported: str
) -> None:
    """One sentence says what is wrong and what to do."""
    with pytest.raises((ConversionError, InvalidRequestError), match=reported):
        convert(tmp_path, made(), **({"normalisation": SCALED} | CLASSIFY | fields))


def arguments(source: Path, out: Path, *more: str) -> list[str]:
    reported = "--name toy --task classify --head softmax --classes a,b,c --scale 1/255 --crop 20 --licence MIT"
    return ["convert", str(source), *reported.split(), "--out", str(out), *more]


def test_the_command_writes_a_package_the_service_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """convert, then models show and verify: through the command line, with the confined process."""
    source, out = toy_onnx.save(tmp_path, toy_onnx.classifier()), tmp_path / "models"
    assert main(arguments(source, out)) == 0
    assert "largest difference" in capsys.readouterr().out
    package = load_package(out / "toy")
    assert package.spec.licence == "MIT"
    assert LocalRunner([package]).run("toy", {"image": IMAGES})["probabilities"].shape == (4, 3)
    report = json.loads((out / "toy" / "1" / "parity.json").read_text(encoding="utf-8"))
    assert report["agreement"]["max_abs"] < 1e-4
    assert 'name: "zeros"' in (out / "toy" / "config.pbtxt").read_text(encoding="utf-8")

    assert main(["models", "verify", "toy", "--models", str(out)]) == 0
    assert "from its original" in capsys.readouterr().out
    assert main(["models", "show", "toy", "--models", str(out)]) == 0
    assert "max_abs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loss", "int8_ms", "is_kept"), [(0.004, 1.0, True), (0.005, 1.0, False), (0.0, 2.0, False), (0.0, 2.1, False)]
)
def test_int8_has_to_be_close_and_faster(loss: float, int8_ms: float, is_kept: bool) -> None:
    """Either one alone is not worth it."""
    assert is_worth_it(loss, 0.005, float32_ms=2.0, int8_ms=int8_ms) == is_kept


def test_int8_is_tried_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit of 0 keeps no int8 graph, one of 1.1 any that is faster here; the speed-up is printed either way."""
    import cv2

    rng, images = np.random.default_rng(0), tmp_path / "images"
    images.mkdir()
    for index in range(8):
        cv2.imwrite(str(images / f"{index}.png"), rng.integers(0, 256, (30, 30, 3), np.uint8))
    source, out = toy_onnx.save(tmp_path, toy_onnx.classifier()), tmp_path / "models"
    for limit in ("1.1", "0"):
        more = ["--quantize", "int8", "--calibrate", str(images), "--max-loss", limit]
        assert main(arguments(source, out, *more)) == 0
        reported = capsys.readouterr().out
        is_kept = "int8: kept" in reported
        assert is_kept or "int8: dropped" in reported
        assert not (is_kept and limit == "0")
        assert "times as fast" in reported
        kinds = {node.op_type for node in onnx.load(out / "toy" / "1" / "model.onnx").graph.node}
        assert ("QuantizeLinear" in kinds) == is_kept


@pytest.mark.parametrize(
    ("content", "more", "code", "reported"),
    [
        (None, [], 2, "does not exist"),
        (b"", [], 1, "empty"),
        (b"hello, this is text", [], 1, "format of the source is not supported"),
        (b"\x08\x08" + b"\xff" * 40, [], 1, "damaged|cannot be converted"),
        (b"PK\x03\x04nonsense", [], 1, "damaged"),
        (b"\x89HDF\r\n\x1a\nnonsense", [], 1, "damaged"),
        (b"\x08\x08", ["--head", "unet"], 2, "cannot classify"),
        (b"\x08\x08", ["--classes", "a,a"], 2, "must be unique"),
        (b"\x08\x08", ["--classes", "a"], 2, "class names"),
        (b"\x08\x08", ["--name", "Not A Name"], 2, "lower-case"),
        (b"\x08\x08", ["--scale", "x"], 2, "not a number"),
        (b"\x08\x08", ["--scale", "1/0"], 2, "not a number"),
        (b"\x08\x08", ["--mean", "1,2"], 2, "one number or three"),
        (b"\x08\x08", ["--lambda", "l=exec:1"], 2, "LAYER=rescale:FACTOR"),
        (b"\x08\x08", ["--quantize", "int8"], 2, "--calibrate"),
        (b"\x08\x08", ["--mpp", "nan"], 2, "--mpp"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    more: list[str],
    code: int,
    reported: str,
) -> None:
    """Exit code 1 for the file's fault, 2 for the call's; no models folder, no stack trace."""
    source = tmp_path / "source.bin"
    if content is not None:
        source.write_bytes(content)
    try:
        found = main(arguments(source, tmp_path / "models", *more))
    except SystemExit as error:  # argparse
        found = int(str(error.code))
    said = capsys.readouterr().err
    assert found == code
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1 or "usage:" in said
    import re

    assert re.search(reported, said)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (["--task", "segment", "--head", "unet", "--classes", "Nucleus"], "--crop is for classifiers"),
        (["--halo", "64"], "--halo is for segmenters"),
        (["--max-loss", "0.01"], "--max-loss bounds what int8 may change: add --quantize int8"),
    ],
)
def test_an_option_that_would_change_nothing_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], reported: str
) -> None:
    """Before the file is opened; the other options name a crop."""
    source = toy_onnx.save(tmp_path, toy_onnx.classifier())
    assert main(arguments(source, tmp_path / "models", *more)) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_served_segmenter_can_be_converted_again_as_int8(tmp_path: Path) -> None:
    """Bytes in and bytes out are understood; int8 is measured on pixels it was not calibrated on."""
    import cv2

    images = tmp_path / "images"
    images.mkdir()
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
        cv2.imwrite(str(images / f"{index}.png"), noise)
    _, first = convert(tmp_path, toy_onnx.segmenter(channels=2), normalisation=SCALED, **SEGMENT)
    expected = first(IMAGES)
    served = onnx.load(tmp_path / GRAPH_FILE)
    _, again = convert(tmp_path, served, **SEGMENT)
    assert np.array_equal(again(IMAGES), expected)
    outcome, _ = convert(tmp_path, served, int8=True, max_loss=1.1, calibrate=images, **SEGMENT)
    assert outcome.parity is not None
    assert outcome.parity.quantisation is not None
    assert outcome.parity.quantisation.loss < 0.1


def test_what_killed_conversions_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day later, and nothing but their folders: not one in use, not a link, nothing of another name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new, other = (tmp_path / name for name in ("slidecascade-convert-1", "slidecascade-convert-2", "else"))
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "request.json").write_text("{}")
    link = tmp_path / "slidecascade-convert-3"
    link.symlink_to(other)
    for folder in (old, other, link):
        os.utime(folder, (1e9, 1e9), follow_symlinks=False)
    source = toy_onnx.save(tmp_path, toy_onnx.classifier(layout="NHWC", opset=17))
    call = ["convert", str(source), "--name", "toy", "--task", "classify", "--head", "softmax"]
    assert main([*call, "--classes", "a,b,c", "--out", str(tmp_path / "models")]) == 0
    found = {path.name for path in tmp_path.iterdir() if path.name.startswith(("slidecascade-", "else"))}
    assert found == {"slidecascade-convert-2", "slidecascade-convert-3", "else"}
