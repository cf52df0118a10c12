"""Tensors of one request: parsed, run in parts of bounded memory, and returned in the requested format."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

import toy_models
from slidecascade.errors import MalformedRequestError
from slidecascade.models.batches import batch_of, joined
from slidecascade.models.repository import load_repository
from slidecascade.models.spec import ModelSpec
from slidecascade.settings import bundled_models_dir
from slidecascade.web.tensors import MAX_RUN_PX, Inference

UNET = load_repository(bundled_models_dir())["nuclei-unet"].spec
READ: TypeAdapter[Any] = TypeAdapter(ModelSpec)
STAIN = READ.validate_python(toy_models.stain_fields() | {"sha256": "0" * 64})


def inference(shape: tuple[int, int, int, int], **changes: object) -> Inference:
    pixels = (np.arange(np.prod(shape)) % 251).astype(np.uint8).tobytes()
    image = {"name": "image", "datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": len(pixels)}}
    document = json.dumps({"inputs": [image | changes]}).encode()
    return Inference(document + pixels, json_bytes=len(document), spec=UNET, max_images=32)


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((6, 1024, 1024, 3), [4, 2]),
        ((1, 2048, 2048, 3), [1]),
        ((32, 64, 64, 3), [32]),
        ((3, 1024, 2048, 3), [2, 1]),
    ],
)
def test_large_images_are_run_a_few_at_a_time(shape: tuple[int, int, int, int], parts: list[int]) -> None:
    """All of them, in their order; small ones stay together."""
    asked = inference(shape)
    runs = list(asked.runs())
    assert [batch_of(inputs) for inputs in runs] == parts
    assert all(np.prod(inputs["image"].shape[:3]) <= MAX_RUN_PX for inputs in runs)
    np.testing.assert_array_equal(joined(runs)["image"], asked.inputs["image"])


def test_one_image_that_would_take_gigabytes_is_refused() -> None:
    """It cannot be run in parts here; the caller can cut it."""
    with pytest.raises(MalformedRequestError, match="more than 4194304 pixels, the maximum: divide it into tiles"):
        inference((1, 2048, 2056, 3))


def test_an_invalid_input_is_reported_with_the_sent_tensors() -> None:
    """A caller sees which of name, datatype and number was wrong."""
    with pytest.raises(MalformedRequestError, match="of UINT8, but the request has 'image' of FP32: send"):
        inference((1, 16, 16, 3), datatype="FP32")


def test_outputs_that_would_take_gigabytes_are_refused() -> None:
    """Before anything is run: 33 floats for each of 16 million pixels."""
    wide = toy_models.stain_fields()["outputs"][1] | {"shape": ["batch", "height", "width", 33], "stride": 1}
    fields = toy_models.segmenter_fields(outputs=[toy_models.maps_fields("foreground", "interior"), wide])
    spec = READ.validate_python(fields | {"sha256": "0" * 64})
    pixels = bytes(16 * 1024 * 1024 * 3)
    image = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [16, 1024, 1024, 3],
        "parameters": {"binary_data_size": len(pixels)},
    }
    document = json.dumps({"inputs": [image]}).encode()
    with pytest.raises(MalformedRequestError, match=r"outputs would take \d+ bytes, and the maximum is .* divide"):
        Inference(document + pixels, json_bytes=len(document), spec=spec, max_images=32)


DATATYPES = {"image": "UINT16", "gain": "FP32"}


def sent(name: str, array: NDArray[Any], *, binary: bool) -> dict[str, Any]:
    how = {"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.tolist()}
    return {"name": name, "datatype": DATATYPES[name], "shape": array.shape} | how


def stain(tensors: list[dict[str, Any]], binary: bytes = b"", **more: Any) -> Inference:
    document = json.dumps({"inputs": tensors} | more).encode()
    return Inference(document + binary, json_bytes=len(document), spec=STAIN, max_images=32)


@pytest.mark.parametrize("order", [["image", "gain"], ["gain", "image"]])
@pytest.mark.parametrize("binary", [set(), {"image"}, {"gain"}, {"image", "gain"}])
def test_several_inputs_are_read_as_json_and_as_binary_data(order: list[str], binary: set[str]) -> None:
    """In any order and any mixture, each of its own type."""
    inputs = toy_models.stain_inputs(1, 3, 4, 8)
    tensors = [sent(name, inputs[name], binary=name in binary) for name in order]
    read = stain(tensors, b"".join(inputs[name].tobytes() for name in order if name in binary)).inputs
    assert read.keys() == inputs.keys()
    for name, array in inputs.items():
        assert read[name].dtype == array.dtype
        assert read[name].flags.aligned
        np.testing.assert_array_equal(read[name], array)


IMAGE, GAIN = np.zeros((1, 4, 4, 4), np.uint16), np.ones((1, 4), np.float32)
GOOD = [sent("image", IMAGE, binary=False), sent("gain", GAIN, binary=False)]


@pytest.mark.parametrize(
    ("tensors", "binary", "says"),
    [
        (GOOD[:1], b"", "inputs 'image' of UINT16, 'gain' of FP32, but the request has 'image' of UINT16"),
        ([*GOOD, GOOD[1]], b"", "but the request has 'gain' of FP32, 'gain' of FP32"),
        ([GOOD[0], GOOD[1] | {"shape": [2, 4], "data": [1] * 8}], b"", r"'gain' has shape \(2, 4\)"),
        ([GOOD[0], GOOD[1] | {"data": [1, 2, 3, 1e39]}], b"", "'gain' must be numbers in the range of float32"),
        ([GOOD[0], GOOD[1] | {"data": [1, 2, 3, "4"]}], b"", "'gain' must be numbers"),
        ([GOOD[0] | {"data": [65536] * 64}, GOOD[1]], b"", "'image' must be whole numbers from 0 to 65535"),
        (
            [sent("image", IMAGE, binary=True), GOOD[1]],
            bytes(127),
            "'image' requires exactly 128 bytes .* 127 were sent",
        ),
        ([sent("image", IMAGE, binary=True), GOOD[1]], bytes(129), "129 bytes .* the inputs state 128"),
        ([sent("image", IMAGE, binary=True), sent("gain", GAIN, binary=True)], bytes(128), "16 bytes .* 0 were"),
        ([GOOD[0] | {"parameters": {"binary_data_size": 128}}, GOOD[1]], bytes(128), "exactly 128 bytes"),
    ],
)
def test_inputs_that_are_not_as_stated_are_refused(
    tensors: list[dict[str, Any]], binary: bytes, says: str
) -> None:
    """With the name of the invalid input."""
    stain(GOOD)
    with pytest.raises(MalformedRequestError, match=says):
        stain(tensors, binary)


def test_outputs_are_those_asked_for_in_that_order() -> None:
    """All by default; each as JSON or as binary data by itself."""
    outputs = toy_models.stain_outputs({"image": IMAGE + 512, "gain": GAIN})
    document, binary = stain(GOOD, id="7").answer(outputs)
    reported = json.loads(document)
    assert (reported["id"], reported["model_name"], binary) == ("7", "toy-stain", b"")
    assert [(item["name"], item["datatype"], item["shape"]) for item in reported["outputs"]] == [
        ("maps", "UINT8", [1, 4, 4, 1]),
        ("brightness", "FP32", [1, 2, 2, 1]),
    ]
    assert reported["outputs"][1]["data"] == [512.0] * 4

    asked = [{"name": "brightness"}, {"name": "maps", "parameters": {"binary_data": False}}]
    both = stain(GOOD, outputs=asked, parameters={"binary_data_output": True})
    document, binary = both.answer(outputs)
    first, second = json.loads(document)["outputs"]
    assert (first["name"], first["parameters"], second["data"]) == (
        "brightness",
        {"binary_data_size": 16},
        [2] * 16,
    )
    assert binary == outputs["brightness"].tobytes()

    document, binary = stain(GOOD, outputs=[{"name": "maps"}]).answer(outputs)
    assert [item["name"] for item in json.loads(document)["outputs"]] == ["maps"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([{"name": "logits"}], "'logits' is not an output: model 'toy-stain' returns maps, brightness"),
        ([{"name": "maps"}, {"name": "maps"}], "'maps' is requested twice"),
    ],
)
def test_outputs_that_cannot_be_returned_are_refused(asked: list[dict[str, str]], says: str) -> None:
    """One that is not there, and one twice."""
    with pytest.raises(MalformedRequestError, match=says):
        stain(GOOD, outputs=asked)


@pytest.mark.parametrize(
    ("dtype", "datatype", "good", "bad"),
    [
        ("bool", "BOOL", [True, False], [1, 0]),
        ("int8", "INT8", [-128, 127], [-129, 0]),
        ("uint32", "UINT32", [0, 2**32 - 1], [-1, 2**32]),
        ("int64", "INT64", [-(2**63), 2**63 - 1], [0, 2**63]),
        ("float16", "FP16", [0.5, -2], [1e6, 0]),
        ("float64", "FP64", [1e300, 1], ["1", 2]),
    ],
)
def test_json_of_every_type(dtype: str, datatype: str, good: list[Any], bad: list[Any]) -> None:
    """What the type holds is read; what it cannot hold is refused, never wrapped around."""
    vector = {"name": "image", "dtype": dtype, "layout": "NC", "shape": ["batch", 2], "channels": ["a", "b"]}
    tensors = [toy_models.image_fields("height", "width"), vector | {"name": "vector"}]
    spec = READ.validate_python(toy_models.segmenter_fields(inputs=tensors) | {"sha256": "0" * 64})
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 0]}

    def read(how: dict[str, Any], binary: bytes = b"") -> NDArray[Any]:
        given = {"name": "vector", "datatype": datatype, "shape": [1, 2]} | how
        before = image if not binary else image | {"parameters": {"binary_data_size": 3}, "data": None}
        document = json.dumps({"inputs": [before, given]}).encode()
        return Inference(document + binary, json_bytes=len(document), spec=spec, max_images=1).inputs["vector"]

    expected = np.array([good], dtype)
    np.testing.assert_array_equal(read({"data": good}), expected)
    size = {"parameters": {"binary_data_size": expected.nbytes}}
    found = read(size, b"rgb" + expected.tobytes())  # begins at an odd byte
    np.testing.assert_array_equal(found, expected)
    assert found.flags.aligned
    with pytest.raises(MalformedRequestError, match="'vector' must be"):
        read({"data": bad})
