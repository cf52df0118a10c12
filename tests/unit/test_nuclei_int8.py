"""Weights are scaled before quantisation without changing any output; a graph that loses cells is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slidecascade.errors import ModelPackageError
from slidecascade.heads.unet import UnetOptions
from slidecascade_convert.sessions import open_session
from slidecascade_evaluation.dsb2018 import FLUORESCENCE, NucleiImage
from slidecascade_training.nuclei.equalising import equalise
from slidecascade_training.nuclei.int8 import checked, squares
from toy_pipeline import blobs

RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (1, 16, 24, 3), np.uint8) for _ in range(4)]


def uneven_network(*, last: str = "Conv") -> onnx.ModelProto:
    """Two convolutions, the first read beside its own maxima by the second; its channels differ a thousandfold."""
    sizes = np.array([0.01, 1, 10, 0.1], np.float32)
    weights = {
        "w1": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) * sizes[:, None, None, None] / 255,
        "b1": (np.array([0.1, 0.2, 0.3, 0.4], np.float32) * sizes),
        "w2": RNG.normal(size=(2, 8, 1, 1)).astype(np.float32),
        "b2": np.array([0.5, -0.5], np.float32),
    }
    kernel: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w1", "b1"], ["c1"], **kernel),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["m1"], **kernel),
        helper.make_node("Concat", ["r1", "m1"], ["both"], axis=1),
        helper.make_node(last, ["both", "w2", "b2"] if last == "Conv" else ["both"], ["maps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "uneven",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def ranges(model: onnx.ModelProto) -> NDArray[np.float32]:
    """The largest value of each channel after the first ReLU."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, None))
    session = open_session(shown)
    found: NDArray[np.float32] = np.max(
        [session.run(["r1"], {"image": image})[0].max(axis=(0, 2, 3)) for image in IMAGES], axis=0
    )
    return found


def test_equalising_changes_ranges_and_no_output() -> None:
    """Through maxima and concatenations; the largest channel is no longer a thousand times the smallest."""
    model = uneven_network()
    before = [open_session(model).run(None, {"image": image})[0] for image in IMAGES]
    uneven = ranges(model)
    equalise(model, IMAGES)
    after = [open_session(model).run(None, {"image": image})[0] for image in IMAGES]
    for one, other in zip(before, after, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)
    even = ranges(model)
    assert even.max() / even.min() < uneven.max() / uneven.min() / 5


def test_a_graph_whose_channels_cannot_be_scaled_is_refused() -> None:
    """A sigmoid is no positive scaling."""
    with pytest.raises(ValueError, match="Sigmoid reads"):
        equalise(uneven_network(last="Sigmoid"), IMAGES)


def test_calibration_squares_are_of_one_size_and_the_same_each_time() -> None:
    """Small images are mirrored."""
    images = [
        NucleiImage(
            "a",
            FLUORESCENCE,
            RNG.integers(0, 256, (height, width, 3), np.uint8),
            np.zeros((height, width), np.int32),
        )
        for height, width in ((200, 300), (256, 256), (400, 500))
    ]
    first, second = squares(images), squares(images)
    assert {square.shape for square in first} == {(1, 256, 256, 3)}
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def _maps(image: NDArray[np.uint8], *, missing: int = 0) -> NDArray[np.uint8]:
    """Dark blobs as foreground and depth; the first rows `missing`."""
    found = np.where(image.max(axis=2) < 150, 255, 0).astype(np.uint8)
    found[:missing] = 0
    return np.stack([found, found], axis=2)


@pytest.mark.parametrize(("missing", "is_refused"), [(0, False), (128, True)])
def test_int8_that_loses_cells_is_refused(missing: int, is_refused: bool) -> None:
    """Half of an image without cells is more than 0.5 %."""
    pixels = blobs(2, 256, 256, 30)
    truth = (_maps(pixels)[..., 0] > 0).astype(np.int32)
    images = [NucleiImage("a", FLUORESCENCE, pixels, truth)]
    options = UnetOptions(foreground=0.5, seed=0.5, prominence=0.5, min_area_um2=1.0)

    def found() -> dict[str, float]:
        return checked(images, _maps, lambda image: _maps(image, missing=missing), options)

    if is_refused:
        with pytest.raises(ModelPackageError, match=r"keeps .* cells: keep float32"):
            found()
    else:
        assert found()["cells_kept"] == 1.0
