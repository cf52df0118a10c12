"""One statement of a network's tensors: what may be stated, and all that derives from it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slidecascade.errors import ModelFailedError
from slidecascade.models.batches import batch_of, image_bytes, joined, part_of
from slidecascade.models.tensors import InputSpec, OutputSpec, Signature, Tensors, rgb_image

IMAGE: dict[str, Any] = {
    "name": "image",
    "dtype": "uint16",
    "layout": "NCHW",
    "shape": ["batch", 2, "height", "width"],
    "channels": ["nuclear", "membrane"],
}
OUTPUT: dict[str, Any] = {
    "name": "flow",
    "dtype": "float32",
    "layout": "NHWC",
    "shape": ["batch", "height", "width", 3],
    "stride": 2,
    "meaning": "flow",
}


def signature(*, image: dict[str, Any] | None = None, output: dict[str, Any] | None = None) -> Signature:
    """A network of two channels with an output at half the size; with changes to either."""
    return Signature(
        (InputSpec(**(IMAGE | {"multiple_of": 4} | (image or {}))),), (OutputSpec(**(OUTPUT | (output or {}))),)
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "str"}, "dtype"),
        ({"layout": "HWC"}, "layout"),
        ({"layout": "NCHH"}, "names an axis twice"),
        ({"layout": "NCH"}, "has 3 axes, the shape 4"),
        ({"shape": [1, 2, "height", "width"]}, "must be 'batch'"),
        ({"shape": ["batch", "channels", "height", "width"]}, "size of axis C must be a number"),
        ({"shape": ["batch", 2, "side", "side"]}, "free dimensions must be unique"),
        ({"shape": ["batch", 2, "batch", "width"]}, "axis H must be a number"),
        ({"shape": ["batch", 2, 0, 8]}, "shape"),
        ({"shape": ["batch", 2, "8", 8]}, "shape"),
        ({"channels": ["nuclear"]}, "1 channels are named, its shape has 2"),
        ({"channels": ["nuclear", "nuclear"]}, "channels must be unique"),
        ({"channels": []}, "channels"),
        ({"range": [255, 0]}, "is not above the minimum"),
        ({"range": [0, float("nan")]}, "range"),
        ({"multiple_of": 0}, "multiple_of"),
        ({"shape": ["batch", 2, 8, 8], "multiple_of": 4}, "no size of 'image' is free"),
        ({"stride": 2}, "stride"),
    ],
)
def test_an_input_that_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    """The message names what is wrong with it."""
    InputSpec(**IMAGE)
    with pytest.raises(ValidationError, match=says):
        InputSpec(**(IMAGE | changes))


@pytest.mark.parametrize(
    ("image", "output", "says"),
    [
        ({}, {"stride": 3}, "multiple_of 4 is not a multiple of the stride 3 of output 'flow'"),
        ({}, {"shape": ["batch", "rows", "width", 3]}, "free dimension 'rows' that no input has"),
        ({"multiple_of": 1}, {}, "stride 2"),
    ],
)
def test_outputs_follow_from_the_inputs(image: dict[str, Any], output: dict[str, Any], says: str) -> None:
    """Otherwise their size would be unknown before the run."""
    with pytest.raises(ValueError, match=says):
        signature(image=image, output=output)


def test_names_of_tensors_differ() -> None:
    """Equal names could not be distinguished in a mapping."""
    image, output = rgb_image(), OutputSpec(**(OUTPUT | {"stride": 1}))
    with pytest.raises(ValueError, match="names of inputs must be unique"):
        Signature((image, image), (output,))
    with pytest.raises(ValueError, match="names of outputs must be unique"):
        Signature((image,), (output, output))


@given(batch=st.integers(0, 9), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_sizes_of_outputs_are_known_before_a_run(batch: int, rows: int, columns: int) -> None:
    """Free sizes by their names, at the output's stride; room for them has their types."""
    stated = signature()
    height, width = 4 * rows, 4 * columns
    inputs = {"image": np.zeros((batch, 2, height, width), np.uint16)}
    assert stated.require_inputs("m", inputs) == {"flow": (batch, height // 2, width // 2, 3)}
    made = stated.new_outputs("m", inputs)["flow"]
    assert (made.shape, made.dtype.name) == ((batch, height // 2, width // 2, 3), "float32")
    assert stated.mismatch({"flow": made}, {"flow": made.shape}) is None
    assert stated.pixels({"image": inputs["image"].shape}) == height * width


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "takes the inputs image, got none"),
        ({"pixels": np.zeros((1, 2, 8, 8), np.uint16)}, "takes the inputs image, got pixels"),
        ({"image": np.zeros((1, 2, 8, 8), np.uint8)}, "takes 'image' as uint16, not as uint8"),
        ({"image": np.zeros((2, 8, 8), np.uint16)}, r"shape \(2, 8, 8\), expected \(batch, 2, height, width\)"),
        ({"image": np.zeros((1, 3, 8, 8), np.uint16)}, r"shape \(1, 3, 8, 8\)"),
        ({"image": np.zeros((1, 2, 8, 6), np.uint16)}, "width is 6, it must be a multiple of 4"),
        ({"image": np.zeros((1, 2, 0, 8), np.uint16)}, "height is 0"),
    ],
)
def test_inputs_that_are_not_as_stated_are_refused(inputs: dict[str, Any], says: str) -> None:
    """With the model's name, and what of them is not taken."""
    with pytest.raises(ModelFailedError, match=f"'toy'.*{says}"):
        signature().require_inputs("toy", inputs)


def test_one_name_is_one_size_in_all_inputs() -> None:
    """A second image has the height and width of the first; multiples of both hold."""
    mask = InputSpec(
        name="mask",
        dtype="bool",
        layout="NHWC",
        shape=("batch", "height", "width", 1),
        channels=("tissue",),
        multiple_of=6,
    )
    both = Signature((InputSpec(**(IMAGE | {"multiple_of": 4})), mask), (OutputSpec(**OUTPUT),))
    assert both.input_shapes(batch=3, side_px=20) == {"image": (3, 2, 24, 24), "mask": (3, 24, 24, 1)}
    with pytest.raises(ValueError, match="multiple of 12"):
        both.output_shapes({"image": (1, 2, 24, 28), "mask": (1, 24, 28, 1)})
    with pytest.raises(ValueError, match=r"'mask' has shape \(1, 12, 24, 1\).*height 24"):
        both.output_shapes({"image": (1, 2, 24, 24), "mask": (1, 12, 24, 1)})
    with pytest.raises(ValueError, match="'mask' has shape"):
        both.output_shapes({"image": (1, 2, 24, 24), "mask": (2, 24, 24, 1)})


@pytest.mark.parametrize(
    ("dtype", "datatype", "onnx_type"),
    [
        ("uint8", "UINT8", "tensor(uint8)"),
        ("uint16", "UINT16", "tensor(uint16)"),
        ("int64", "INT64", "tensor(int64)"),
        ("float16", "FP16", "tensor(float16)"),
        ("float32", "FP32", "tensor(float)"),
        ("float64", "FP64", "tensor(double)"),
        ("bool", "BOOL", "tensor(bool)"),
    ],
)
def test_a_type_has_one_name_in_each_protocol(dtype: str, datatype: str, onnx_type: str) -> None:
    """NumPy's, the Open Inference Protocol's and ONNX Runtime's."""
    stated = InputSpec(**(IMAGE | {"dtype": dtype}))
    assert (stated.datatype, stated.onnx_type, stated.numpy_dtype) == (datatype, onnx_type, np.dtype(dtype))


@given(count=st.integers(1, 9), cuts=st.lists(st.integers(0, 9), max_size=3))
def test_what_is_parted_and_joined_is_the_same(count: int, cuts: list[int]) -> None:
    """Every tensor, in order, whatever its type."""
    rng = np.random.default_rng(count)
    whole = {"a": rng.integers(0, 9, (count, 3), np.uint8), "b": rng.normal(size=(count, 2, 2))}
    ends = sorted({0, count, *(min(cut, count) for cut in cuts)})
    again = joined(part_of(whole, start, stop) for start, stop in itertools.pairwise(ends))
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert batch_of(again) == count


def test_calls_are_bounded_by_what_is_larger_the_inputs_or_the_outputs() -> None:
    """A network may return many times the bytes it takes; tensors without images have no bytes."""
    small: Tensors = {"a": np.zeros((4, 8), np.uint8)}
    large: Tensors = {"b": np.zeros((4, 9), np.float32), "c": np.zeros(4)}
    assert image_bytes(small, large) == image_bytes(large, small) == 9 * 4 + 8
    assert image_bytes(part_of(small, 0, 0), part_of(large, 0, 0)) == 1
