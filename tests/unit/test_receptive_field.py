"""The receptive field of a network: from its graph, as an oracle measures it, as commands report it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

import toy_onnx
from slidecascade.cli import main
from slidecascade.models.repository import load_package
from slidecascade_convert.receptive_field import receptive_field_px

MODELS = Path(__file__).resolve().parents[2] / "models"
Layer = tuple[str, dict[str, Any], dict[str, Any]]
"""An operator, its attributes, and its constant inputs by name."""


def conv(kernel_px: int, **attributes: Any) -> Layer:
    weights = np.random.default_rng(kernel_px).uniform(0.5, 1, (1, 1, kernel_px, kernel_px)).astype(np.float32)
    return "Conv", attributes, {"kernel": weights}


def deconv(kernel_px: int, **attributes: Any) -> Layer:
    weights = np.random.default_rng(kernel_px).uniform(0.5, 1, (1, 1, kernel_px, kernel_px)).astype(np.float32)
    return "ConvTranspose", attributes, {"kernel": weights}


def resize(times: int, mode: str) -> Layer:
    return "Resize", {"mode": mode}, {"roi": None, "scales": np.array([1, 1, times, times], np.float32)}


def network(layers: Sequence[Layer], *, skip: bool = False) -> onnx.ModelProto:
    """A chain of `layers` on one channel in NCHW; with `skip` the image is added to the end."""
    nodes, constants, last = [], [], "image"
    for number, (operator, attributes, inputs) in enumerate(layers):
        names = [last]
        for name, value in inputs.items():
            names.append("" if value is None else f"{name}{number}")
            if value is not None:
                constants.append(numpy_helper.from_array(value, f"{name}{number}"))
        last = f"layer{number}"
        nodes.append(helper.make_node(operator, names, [last], **attributes))
    nodes.append(
        helper.make_node("Add", [last, "image"], ["maps"])
        if skip
        else helper.make_node("Identity", [last], ["maps"])
    )
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "h", "w"])
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "toy", [image], [maps], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measured_px(model: onnx.ModelProto, multiple_of: int, side_px: int = 192) -> int:
    """The field by trial: how far outputs change when all pixels on one side of the middle change."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(image: Any) -> Any:
        return session.run(None, {"image": image})[0][0, 0]

    image = np.random.default_rng(0).uniform(1, 2, (1, 1, side_px, side_px)).astype(np.float32)
    before = run(image)
    stride, side = side_px // before.shape[1], side_px // 2 // multiple_of * multiple_of
    left, right = image.copy(), image.copy()
    left[..., :side] *= 3
    right[..., side:] *= 3
    changed_left = np.flatnonzero((run(left) != before).any(axis=0))
    changed_right = np.flatnonzero((run(right) != before).any(axis=0))
    reach_px = max((changed_left.max() + 1) * stride - side, side - changed_right.min() * stride, 0)
    return int(2 * reach_px + 1)


@pytest.mark.parametrize(
    ("layers", "multiple_of", "expected_px"),
    [
        ([conv(1)], 1, 1),
        ([conv(3, pads=[1, 1, 1, 1])], 1, 3),
        ([conv(3, pads=[1, 1, 1, 1]), conv(5, pads=[2, 2, 2, 2])], 1, 7),
        ([conv(3, pads=[4, 4, 4, 4], dilations=[4, 4])], 1, 9),
        ([conv(4, auto_pad="SAME_UPPER", strides=[2, 2])], 2, 5),
        ([conv(4, auto_pad="SAME_LOWER", strides=[2, 2])], 2, 5),
        ([("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {})], 2, 1),
        ([("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, {})], 2, 5),
        (
            [
                ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {}),
                conv(3, pads=[1] * 4),
                resize(2, "nearest"),
            ],
            2,
            5,
        ),
        ([("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {}), resize(2, "linear")], 2, 3),
        ([conv(2, strides=[2, 2]), deconv(2, strides=[2, 2])], 2, 1),
        ([conv(2, strides=[2, 2]), deconv(4, strides=[2, 2], pads=[1, 1, 1, 1])], 2, 3),
        ([("Pad", {"mode": "reflect"}, {"pads": np.array([0, 0, 2, 2, 0, 0, 2, 2])}), conv(5)], 1, 5),
        ([("SpaceToDepth", {"blocksize": 2}, {}), ("DepthToSpace", {"blocksize": 2}, {})], 2, 1),
    ],
)
def test_the_field_of_the_graph_is_what_an_oracle_measures(
    layers: list[Layer], multiple_of: int, expected_px: int
) -> None:
    """By kernels, strides, dilations, paddings and upsampling; the oracle changes all pixels on one side."""
    model = network(layers)
    found = receptive_field_px(model, "image", layout="NCHW", multiple_of=multiple_of)
    assert found == expected_px
    assert isinstance(found, int)
    assert measured_px(model, multiple_of) == found


@pytest.mark.parametrize("multiple_of", [8, 16])
def test_the_bound_is_tight_for_an_encoder_and_decoder(multiple_of: int) -> None:
    """Three poolings, convolutions of 3 at every level, and a skip: the measured field is the computed one."""
    layers: list[Layer] = []
    for _ in range(3):
        layers += [conv(3, pads=[1] * 4), ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {})]
    for _ in range(3):
        layers += [conv(3, pads=[1] * 4), resize(2, "nearest")]
    model = network(layers, skip=True)
    found = receptive_field_px(model, "image", layout="NCHW", multiple_of=multiple_of)
    assert found == measured_px(model, multiple_of)


def test_channels_may_be_last() -> None:
    """A Transpose in front, as exporters of Keras write it."""
    first: Layer = ("Transpose", {"perm": [0, 3, 1, 2]}, {})
    model = network([first, conv(3, pads=[1, 1, 1, 1])])
    assert receptive_field_px(model, "image", layout="NHWC", multiple_of=1) == 3


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([("GlobalAveragePool", {}, {})], "unbounded"),
        ([("ReduceMean", {"axes": [2, 3]}, {})], "unbounded"),
        ([conv(3, dilations=[2000, 2000])], "unbounded"),
        ([("LSTM", {}, {})], None),
        ([resize(2, "cubic")], None),
        ([("Softmax", {"axis": 3}, {})], None),
    ],
)
def test_a_field_that_cannot_be_computed_is_not_stated(layers: list[Layer], expected: str | None) -> None:
    """Operators over the whole image have no bound; of others no number is guessed."""
    assert receptive_field_px(network(layers), "image", layout="NCHW", multiple_of=1) == expected


@pytest.mark.parametrize(
    "name",
    [
        "nuclei-unet",
        "nash-cell",
        "nash-hepatocyte",
        "lymph-tumour",
        "glomeruli-unet",
        "liver-fat",
        "fluorescence-unet",
        "fluorescence-stardist",
        "fluorescence-flows",
    ],
)
def test_the_bundled_packages_state_the_field_of_their_graphs(name: str) -> None:
    """A classifier sees its whole crop."""
    package = load_package(MODELS / name)
    model = onnx.load(package.onnx_path)
    image = package.spec.input
    found = receptive_field_px(model, image.name, layout=image.layout, multiple_of=image.multiple_of)
    stated = package.spec.receptive_field_px
    assert stated == (found if package.spec.task == "segment" else image.height_px)


def edited(folder: Path, **changes: Any) -> None:
    """A copy of the bundled segmenter with other fields in its model.yaml."""
    shutil.copytree(MODELS / "nuclei-unet", folder / "nuclei-unet")
    path = folder / "nuclei-unet" / "model.yaml"
    fields = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({name: value for name, value in fields.items() if value is not None}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "The receptive field of 105 px fits the halo of 80 px"),
        (
            {"halo_px": 64},
            "The receptive field of 105 px does not fit the halo of 64 px: outlines may differ by tile",
        ),
        ({"receptive_field_px": "unbounded"}, "The receptive field is the whole image"),
        ({"receptive_field_px": None}, "No receptive field is stated"),
    ],
)
def test_the_commands_report_whether_the_field_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    """`models show` and `models verify`; packages of earlier versions state none and stay valid."""
    edited(tmp_path, **changes)
    for action in ("show", "verify"):
        assert main(["models", action, "nuclei-unet", "--models", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert expected in shown
    assert "measured" in shown
    assert ("at least 80" in shown) == (changes == {"halo_px": 64})


@pytest.mark.slow
def test_verify_rejects_a_field_that_is_stated_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outputs that change further away than stated are an error."""
    edited(tmp_path, receptive_field_px=51)
    assert main(["models", "verify", "--models", str(tmp_path)]) != 0
    assert "states a receptive field of 51 px, but its outputs depend on more pixels" in capsys.readouterr().err


def test_a_written_package_states_its_field(tmp_path: Path) -> None:
    """The converter computes it."""
    source = toy_onnx.save(tmp_path, toy_onnx.segmenter())
    arguments = [
        "convert",
        str(source),
        "--name",
        "toy",
        "--task",
        "segment",
        "--head",
        "unet",
        "--classes",
        "Cell",
    ]
    assert main([*arguments, "--out", str(tmp_path / "models")]) == 0
    assert isinstance(load_package(tmp_path / "models" / "toy").spec.receptive_field_px, int)
