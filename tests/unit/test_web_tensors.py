"""Tensors of one request are run in parts whose memory has a bound."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slidecascade.errors import MalformedRequestError
from slidecascade.models.repository import load_repository
from slidecascade.settings import bundled_models_dir
from slidecascade.web.tensors import MAX_RUN_PX, Inference

SPEC = load_repository(bundled_models_dir())["nuclei-unet"].spec


def inference(shape: tuple[int, int, int, int], **changes: object) -> Inference:
    pixels = (np.arange(np.prod(shape)) % 251).astype(np.uint8).tobytes()
    image = {"name": "image", "datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": len(pixels)}}
    document = json.dumps({"inputs": [image | changes]}).encode()
    return Inference(document + pixels, json_bytes=len(document), spec=SPEC, max_images=32)


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
    assert [len(images) for images in runs] == parts
    assert all(images.shape[1] * images.shape[2] * len(images) <= MAX_RUN_PX for images in runs)
    np.testing.assert_array_equal(np.concatenate(runs), asked.images)


def test_one_image_that_would_take_gigabytes_is_refused() -> None:
    """It cannot be run in parts here; the caller can cut it."""
    with pytest.raises(MalformedRequestError, match="images of at most 4194304 pixels each: cut them into tiles"):
        inference((1, 2048, 2056, 3))


def test_a_wrong_input_is_told_with_what_was_sent() -> None:
    """A caller sees which of name, datatype and number was wrong."""
    with pytest.raises(
        MalformedRequestError, match=r"takes one input, 'image' of datatype UINT8; sent was 'image' of FP32\."
    ):
        inference((1, 16, 16, 3), datatype="FP32")
