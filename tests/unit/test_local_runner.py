"""The local runner with networks of several inputs and outputs, of any type, and graphs that are not as stated."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import toy_models
from slidecascade.cli import main
from slidecascade.errors import ModelFailedError, ModelPackageError
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import load_package
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.choice import RoutedRunner
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.measured import MeasuredRunner
from slidecascade.runners.runner import Unobserved

IMAGE, GAIN = toy_models.stain_fields()["inputs"]
MAPS, BRIGHTNESS = toy_models.stain_fields()["outputs"]


def runner_of(folder: Path, fields: dict[str, Any], graph: bytes) -> LocalRunner:
    return LocalRunner([load_package(toy_models.write_package(folder, fields, graph))])


@pytest.mark.parametrize(("count", "height", "width"), [(1, 8, 12), (5, 64, 4), (0, 8, 8)])
def test_all_outputs_come_back_by_name(tmp_path: Path, count: int, height: int, width: int) -> None:
    """uint16 and float32 in; uint8 maps and float32 values, which are no probabilities, at half the size out."""
    runner = runner_of(tmp_path, toy_models.stain_fields(), toy_models.stain_segmenter())
    inputs = toy_models.stain_inputs(3, count, height, width)
    found, expected = runner.run("toy-stain", inputs), toy_models.stain_outputs(inputs)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert batch_of(found) == count


def test_memory_for_later_runs_is_given_back(tmp_path: Path) -> None:
    """The block that a large image took is freed, also through the runners around; outputs stay the same."""
    local = runner_of(tmp_path, toy_models.stain_fields(), toy_models.stain_segmenter())
    inputs = toy_models.stain_inputs(3, 1, 4096, 4096)
    around = RoutedRunner({"toy-stain": MeasuredRunner(Batcher([local]), Unobserved())})
    before = around.run("toy-stain", inputs)
    kept = resident_mib()
    around.trim()
    assert resident_mib() < kept - 32
    after = around.run("toy-stain", inputs)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    around.close()


def resident_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20


ELEMENTS = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_images_of_any_type_and_number_of_channels(tmp_path: Path, dtype: str, channels: int, layout: str) -> None:
    """The maps are the first channel, cast to bytes."""
    axis = layout.index("C")
    shape: list[int | str] = ["N", "H", "W"]
    shape.insert(axis, channels)
    last = [helper.make_node("Transpose", ["first"], ["moved"], perm=[0, 2, 3, 1])] if axis == 1 else []
    nodes = [
        helper.make_node("Gather", ["image", "zero"], ["first"], axis=axis),
        *last,
        helper.make_node("Cast", ["moved" if last else "first"], ["maps"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", ELEMENTS[dtype], shape)],
        [helper.make_tensor_value_info("maps", TensorProto.UINT8, ["N", "H", "W", 1])],
        [helper.make_tensor("zero", TensorProto.INT64, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    stated: list[int | str] = ["batch", "height", "width"]
    stated.insert(axis, channels)
    image = {
        "name": "image",
        "dtype": dtype,
        "layout": layout,
        "shape": stated,
        "channels": [f"stain {number}" for number in range(channels)],
    }
    fields = toy_models.segmenter_fields(
        head="semantic", inputs=[image], outputs=[toy_models.maps_fields("foreground")], options={}
    )
    runner = runner_of(tmp_path, fields, model.SerializeToString())
    given = np.random.default_rng(0).integers(0, 200, (2, 6, 6, channels)).astype(dtype)
    found = runner.run("toy-segmenter", {"image": given if axis == 3 else given.transpose(0, 3, 1, 2)})
    np.testing.assert_array_equal(found["maps"], given[..., :1].astype(np.uint8))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": [IMAGE]}, "takes image, gain, its model.yaml states image"),
        ({"outputs": [MAPS]}, "returns maps, brightness, .* states maps:"),
        (
            {"inputs": [IMAGE | {"dtype": "uint8"}, GAIN]},
            r"takes 'image' as tensor\(uint16\)",
        ),
        (
            {"outputs": [MAPS, BRIGHTNESS | {"stride": 4}]},
            r"returns 'brightness' as float32 \(1, 32, 32, 1\), its model.yaml states float32 \(1, 16, 16, 1\)",
        ),
    ],
)
def test_a_graph_with_other_tensors_than_stated_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """When its session is made: names, types, and sizes as they come out."""
    with pytest.raises(ModelPackageError, match=f"'toy-stain' {says}"):
        runner_of(tmp_path, toy_models.stain_fields(**changes), toy_models.stain_segmenter())


def test_values_that_are_not_finite_are_refused_in_any_output(tmp_path: Path) -> None:
    """The invalid output is named."""
    runner = runner_of(tmp_path, toy_models.stain_fields(), toy_models.stain_segmenter())
    inputs = toy_models.stain_inputs(1, 1, 8, 8) | {"gain": np.full((1, 4), np.nan, np.float32)}
    with pytest.raises(ModelFailedError, match="'toy-stain' returned NaN or infinite values in 'brightness'"):
        runner.run("toy-stain", inputs)


def test_models_verify_runs_any_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command makes inputs from what the package states, and runs the head on the outputs."""
    toy_models.write_package(tmp_path, toy_models.stain_fields(), toy_models.stain_segmenter())
    assert main(["models", "verify", "--models", str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    assert "toy-stain: sha256 and tensors are as stated" in reported
    assert "image 512 x 512 x 4, gain 4" in reported
    assert main(["models", "show", "toy-stain", "--models", str(tmp_path)]) == 0
    assert "brightness" in capsys.readouterr().out


def test_a_graph_of_unstated_sizes_is_taken_by_what_it_returns(tmp_path: Path) -> None:
    """Exporters may leave the shape of an output out; its first run shows it."""
    model = onnx.load_model_from_string(toy_models.stain_segmenter())
    model.graph.output[1].type.tensor_type.ClearField("shape")
    runner = runner_of(tmp_path, toy_models.stain_fields(), model.SerializeToString())
    assert runner.run("toy-stain", toy_models.stain_inputs(1, 1, 8, 8))["brightness"].shape == (1, 4, 4, 1)
