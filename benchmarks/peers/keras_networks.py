"""The bundled networks as Keras models again, with the weights of the served graphs.

A graph was made from a Keras model that the training package builds, with its batch normalisations folded into
the convolutions before them. The same model is built anew; its kernels are those of the graph, its normalisations
add the folded shifts and otherwise do nothing. That both compute the same is checked before anything is timed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec

Weights = dict[tuple[str, int, str], NDArray[np.float32]]

_LAYER = re.compile(r"(?:^|/)(separable_conv2d|conv2d|batch_normalization|probabilities)(?:_(\d+))?_\d+/(.+)$")


def keras_network(package: ModelPackage) -> tuple[Any, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]:
    """The Keras model of a bundled package, and what turns uint8 pixels into its input.

    Raises:
        ValueError: the graph holds other weights than the network that the training package builds.
    """
    spec, weights = package.spec, _weights(package)
    if isinstance(spec, SegmenterSpec):
        from slidecascade_training.nuclei.network import build_network

        # Of all sizes that are trained, the width doubles with each of three levels.
        first = _kernel_of(_of_layer(weights, "conv2d", 0)).shape[0]
        maps = len(spec.outputs[0].channels or ())
        model, scale, offset = build_network((first, 2 * first, 4 * first), maps), 1 / 255, 0.0
    else:
        assert isinstance(spec, ClassifierSpec)  # noqa: S101 - no bundled network draws images
        from slidecascade_training.recipes.networks import small_classifier

        side_px, _ = spec.crop_shape_px
        model, scale, offset = small_classifier(side_px, len(spec.classes)), 2 / 255, -1.0
    _fill(model, weights)

    def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images.astype(np.float32) * np.float32(scale) + np.float32(offset)

    return model, pixels


def _weights(package: ModelPackage) -> Weights:
    """Arrays by kind of layer, its number among its kind, and what they are."""
    found: Weights = {}
    for tensor in onnx.load_from_string(package.read()).graph.initializer:
        match = _LAYER.search(tensor.name)
        if match is None:
            continue
        # Tracing made every name unique: conv2d became conv2d_1, conv2d_1 became conv2d_1_2, conv2d_2 conv2d_2_1.
        kind, number, part = match.groups()
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            found[kind, int(number or 0), part.split(":")[0]] = array
    return found


def _of_layer(weights: Weights, kind: str, number: int) -> dict[str, NDArray[np.float32]]:
    return {part: array for (of, at, part), array in weights.items() if (of, at) == (kind, number)}


def _fill(model: Any, weights: Weights) -> None:
    for kind in ("separable_conv2d", "conv2d", "batch_normalization", "probabilities"):
        for number, layer in enumerate(_layers(model, kind)):
            try:
                layer.set_weights(_arrays(kind, layer, _of_layer(weights, kind, number)))
            except (KeyError, ValueError, StopIteration) as error:
                raise ValueError(
                    f"The graph of {model.name!r} has no weights that fit layer {layer.name!r}: it was trained by "
                    "another recipe than the training package's."
                ) from error


def _layers(model: Any, kind: str) -> list[Any]:
    """Layers of a kind in the order they were made in, which is that of the numbers in their names."""

    def number(layer: Any) -> int:
        match = re.fullmatch(rf"{kind}(?:_(\d+))?", layer.name)
        return -1 if match is None else int(match.group(1) or 0)

    return sorted((layer for layer in model.layers if number(layer) >= 0), key=number)


def _arrays(kind: str, layer: Any, parts: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """A layer's arrays in Keras's order and layout; convolutions of a graph are (out, in, height, width)."""
    if kind == "batch_normalization":
        shift = next(iter(parts.values()))
        ones, zeros = np.ones_like(shift), np.zeros_like(shift)
        return [np.sqrt(ones + np.float32(layer.epsilon)), shift, zeros, ones]
    if kind == "probabilities":
        return sorted(parts.values(), key=lambda array: -array.ndim)
    kernel = _kernel_of(parts).transpose(2, 3, 1, 0)
    if kind == "separable_conv2d":
        return [parts["separable_conv2d/ReadVariableOp"], kernel]
    if not layer.use_bias:
        return [kernel]
    # With a single channel it has been given the rank of an image.
    return [kernel, next(array for part, array in parts.items() if part in {"Squeeze", "Reshape"}).reshape(-1)]


def _kernel_of(parts: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return next(
        array for part, array in parts.items() if part.endswith(("merged_input", "convolution/ReadVariableOp"))
    )
