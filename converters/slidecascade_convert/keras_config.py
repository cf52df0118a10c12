"""A Keras model's configuration, as any version from 2.0 on wrote it, made into one that Keras 3 builds safely.

Only what computes the outputs is kept: layers by class from a list, their numbers and strings, and the wiring.
Initialisers, regularisers, constraints, dtypes, losses, metrics and optimizers do not change what a trained
network answers and are dropped, so that custom ones do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slidecascade.errors import ConversionError
from slidecascade_convert.keras_layers import (
    ACTIVATIONS,
    APPLICATION_LAYERS,
    ARITHMETIC,
    AUGMENTATIONS,
    LAYERS,
    MODELS,
    OPERATIONS,
    RESCALING_OPERATIONS,
)
from slidecascade_convert.lambdas import rescaling_of

DYNAMIC_UPSAMPLING = "slidecascade>DynamicUpSampling2D"

_DROPPED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_DROPPED = ("dtype", "batch_input_shape", "input_shape", "build_config", "ragged", "sparse", "input_dtype")
_ARRAYS = ("__numpy__", "__tensor__")
# Keras 2 writes these with a value without effect; Keras 3 does not have the argument.
_DROPPED_WHEN_ONE = {"DepthwiseConv2D": "groups", "SeparableConv2D": "groups", "Conv2DTranspose": "groups"}


@dataclass(slots=True)
class Rebuilding:
    """How a configuration is rebuilt.

    Attributes:
        lambdas: factor of each Lambda layer the caller knows to rescale, by layer name.
        dynamic_size: leave height and width of the input open.
        notes: what was replaced, one sentence each, filled while rebuilding.
    """

    lambdas: Mapping[str, float]
    dynamic_size: bool
    notes: list[str] = field(default_factory=list)


def parse(text: str | bytes) -> dict[str, Any]:
    """The configuration in JSON `text`.

    Raises:
        ConversionError: when it is not a JSON object.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConversionError("The model's configuration is not JSON: save the model again.") from error
    if not isinstance(config, dict):
        raise ConversionError("The model's configuration is not a Keras model: save the model again.")
    return config


def rebuild(config: Mapping[str, Any], rebuilding: Rebuilding) -> dict[str, Any]:
    """The Keras 3 configuration of the same network.

    Args:
        config: ``{"class_name": "Functional" | "Model" | "Sequential", "config": ...}`` of any Keras.
        rebuilding: the replacements of Lambda layers; collects the notes.

    Raises:
        ConversionError: naming the layer that cannot be rebuilt.
    """
    known = MODELS.get(str(config.get("class_name")))
    if known is None:
        raise ConversionError(
            f"The model is of the class {str(config.get('class_name'))[:60]!r}, whose code is not in the file: "
            "save a functional or sequential model, or its weights alone, and give --arch."
        )
    module, class_name = known
    inner = config.get("config")
    # Keras 2.0 to 2.2.2 wrote a Sequential's layers as a bare list.
    inner = {"layers": inner} if isinstance(inner, list) else inner
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(layers, list) or not layers:
        raise ConversionError("The model's configuration lists no layers: save the model again.")
    if class_name == "Sequential":
        layers = _with_input_layer(layers)
    kept = {key: _ends(value) for key, value in inner.items() if key in ("name", "input_layers", "output_layers")}
    return {
        "module": module,
        "class_name": class_name,
        "registered_name": None,
        "config": kept | {"layers": [_layer(each, rebuilding) for each in layers]},
    }


def _ends(value: Any) -> Any:
    """Keras 2 lists a model's inputs and outputs even when there is one; Keras 3 would then answer with a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) else value


def _layer(data: Any, rebuilding: Rebuilding) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("config"), dict | list):
        raise ConversionError("The model's configuration has a layer without a configuration: save it again.")
    class_name = str(data.get("class_name"))
    wiring = {key: data[key] for key in ("name", "inbound_nodes") if key in data}
    if class_name in MODELS:
        return rebuild(data, rebuilding) | wiring
    config = data["config"]
    name = str(config.get("name", data.get("name", "?")))[:80]
    if class_name == "Lambda":
        return _rescaling(name, _lambda_factor(name, config, rebuilding), 0.0) | _without_options(wiring)
    if class_name == "TFOpLambda":
        return _operation_layer(name, config, wiring, rebuilding)
    if class_name in OPERATIONS or (class_name in ARITHMETIC and ".ops." in str(data.get("module"))):
        module = OPERATIONS.get(class_name, "keras.src.ops.numpy")
        # Keras writes an operation's options beside its name; they are numbers and strings.
        return _built(module, class_name, _plain(name, config), registered=class_name) | wiring
    wiring = _without_options(wiring) if class_name in AUGMENTATIONS else wiring
    return _listed_layer(name, class_name, config, rebuilding) | wiring


def _listed_layer(name: str, class_name: str, config: dict[str, Any], rebuilding: Rebuilding) -> dict[str, Any]:
    if class_name in AUGMENTATIONS:
        rebuilding.notes.append(f"Layer {name!r} ({class_name}) acts in training only and was left out.")
        return _built("keras.layers", "Identity", {"name": name})
    if class_name in APPLICATION_LAYERS:
        module = APPLICATION_LAYERS[class_name]
        return _built(module, class_name, _plain(name, config), registered=class_name)
    if class_name not in LAYERS:
        raise ConversionError(
            f"Layer {name!r} is of the class {class_name[:60]!r}, which is not rebuilt from a file: give the "
            "architecture with --arch module:callable and the weights, or export the model as ONNX where it runs."
        )
    return _known_layer(name, class_name, config, rebuilding)


def _known_layer(name: str, class_name: str, config: dict[str, Any], rebuilding: Rebuilding) -> dict[str, Any]:
    kept = _plain(name, config)
    if class_name == "InputLayer":
        kept = {"name": name, "batch_shape": _input_shape(name, config, rebuilding)}
    if kept.get(_DROPPED_WHEN_ONE.get(class_name, "")) == 1:
        del kept["groups"]
    if class_name == "Conv1D" and kept.get("groups", 1) != 1:
        raise ConversionError(
            f"Layer {name!r} is a grouped convolution of rows (Conv1D with groups), for which there is no ONNX "
            "form: use a Conv2D with groups, which is converted."
        )
    if class_name == "BatchNormalization":
        axis = kept.get("axis", -1)
        kept["axis"] = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        for key in ("renorm", "renorm_clipping", "renorm_momentum", "virtual_batch_size", "fused", "adjustment"):
            kept.pop(key, None)
    for key in ("activation", "recurrent_activation"):
        if key in kept and kept[key] is not None:
            _check_activation(name, kept[key])
    is_smooth = class_name == "UpSampling2D" and kept.get("interpolation", "nearest") != "nearest"
    return _built("keras.layers", class_name, kept, registered=DYNAMIC_UPSAMPLING if is_smooth else None)


def _plain(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without ignored members; rejects nested objects, which would be built by name."""
    kept = {
        key: value
        for key, value in config.items()
        if key not in _DROPPED and not key.endswith(_DROPPED_ENDINGS) and key != "registered_name"
    }
    for key, value in kept.items():
        if isinstance(value, dict) and value.get("class_name") in _ARRAYS:
            kept[key] = _numbers(name, key, value)
        elif isinstance(value, dict) and key == "activation":
            kept[key] = _activation_name(name, value)
        elif isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, dict) for x in value)):
            raise ConversionError(
                f"Layer {name!r} has an object as its {key[:40]!r}, which is not rebuilt from a file: give the "
                "architecture with --arch module:callable."
            )
    return kept


def _numbers(name: str, key: str, value: dict[str, Any]) -> Any:
    """The numbers of an array that was given to a layer, e.g. the mean of a Normalization, as nested lists."""
    inner = value.get("config")
    numbers = inner.get("value") if isinstance(inner, dict) else None
    if not _are_numbers(numbers):
        raise ConversionError(f"Layer {name!r} has no numbers as its {key[:40]!r}: save the model again.")
    return numbers


def _are_numbers(value: object) -> bool:
    return all(map(_are_numbers, value)) if isinstance(value, list) else isinstance(value, int | float)


def _without_options(wiring: dict[str, Any]) -> dict[str, Any]:
    """The wiring for a layer that takes its tensor alone: Keras 3 notes ``mask=None`` where a Lambda is called."""
    nodes = wiring.get("inbound_nodes")
    if not isinstance(nodes, list):
        return wiring
    return wiring | {
        "inbound_nodes": [node | {"kwargs": {}} if isinstance(node, dict) else node for node in nodes]
    }


def _activation_name(name: str, value: dict[str, Any]) -> str:
    """Keras sometimes writes a built-in activation as an object with its name inside."""
    inner = value.get("config")
    found = inner if isinstance(inner, str) else value.get("class_name")
    _check_activation(name, found)
    return str(found)


def _check_activation(name: str, activation: object) -> None:
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ConversionError(
            f"Layer {name!r} has the activation {str(activation)[:60]!r}, which is not rebuilt from a file: "
            "give the architecture with --arch module:callable."
        )


def _input_shape(name: str, config: dict[str, Any], rebuilding: Rebuilding) -> list[int | None]:
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    sizes = shape[1:] if isinstance(shape, list) else None
    if not sizes or len(sizes) != 3 or not all(size is None or type(size) is int for size in sizes):
        raise ConversionError(
            f"Input {name!r} has the shape {str(shape)[:60]}, a network of images has (None, height, width, 3)."
        )
    if not rebuilding.dynamic_size:
        return [None, *sizes]
    return [None, sizes[0], None, None] if is_channels_first(sizes) else [None, None, None, sizes[2]]


def is_channels_first(sizes: list[int | None]) -> bool:
    """Whether the three sizes of an image are channels, height, width."""
    return sizes[0] in (1, 3) and sizes[2] not in (1, 3)


def _with_input_layer(layers: list[Any]) -> list[Any]:
    """Old Sequential models state the input's shape on their first layer."""
    first = layers[0]
    config = first.get("config") if isinstance(first, dict) else None
    if not isinstance(config, dict) or first.get("class_name") in ("InputLayer", *MODELS):
        return layers
    shape = config.get("batch_input_shape")
    if shape is None:
        raise ConversionError("The sequential model states no input shape: build it before saving it.")
    return [{"class_name": "InputLayer", "config": {"name": "image", "batch_shape": shape}}, *layers]


def _lambda_factor(name: str, config: dict[str, Any], rebuilding: Rebuilding) -> float:
    """The factor of a Lambda: stated by the caller, or recognised in its code."""
    factor = rebuilding.lambdas.get(name)
    basis = "as you said"
    if factor is None:
        factor, basis = _recognised(config.get("function")), "as in its code"
    if factor is None:
        raise ConversionError(
            f"Layer {name!r} is a Lambda, whose code in the file is not run: if it multiplies by a constant, say "
            f"--lambda {name}=rescale:0.00392; otherwise give the architecture with --arch module:callable."
        )
    rebuilding.notes.append(f"Lambda layer {name!r} multiplies by {factor:.6g}, {basis}; its code was not run.")
    return factor


def _recognised(function: object) -> float | None:
    """Keras 2 writes [code, defaults, closure], Keras 3 an object with them."""
    if isinstance(function, dict) and isinstance(function.get("config"), dict):
        parts = function["config"]
        function = [parts.get("code"), parts.get("defaults"), parts.get("closure")]
    if not isinstance(function, list) or not function or any(function[1:]) or not isinstance(function[0], str):
        return None
    return rescaling_of(function[0])


def _operation_layer(
    name: str, config: dict[str, Any], wiring: dict[str, Any], rebuilding: Rebuilding
) -> dict[str, Any]:
    """A tf_keras operation with one tensor and one number, as a Rescaling."""
    function = str(config.get("function"))
    nodes = wiring.get("inbound_nodes")
    number = None
    if isinstance(nodes, list) and len(nodes) == 1:
        # One call: [layer, node, tensor, {"y": number}], in a list of its own or not.
        call = nodes[0][0] if nodes[0] and isinstance(nodes[0][0], list) else nodes[0]
        arguments = call[3] if len(call) == 4 and isinstance(call[3], dict) else {}
        number = arguments.get("y")
        wiring = wiring | {"inbound_nodes": [[[*call[:3], {}]]]}
    action = RESCALING_OPERATIONS.get(function)
    if action is None or not isinstance(number, int | float) or isinstance(number, bool) or number == 0:
        raise ConversionError(
            f"Layer {name!r} calls {function[:60]!r}, which is not rebuilt from a file: give the architecture "
            "with --arch module:callable, or export the model as ONNX where it runs."
        )
    factor = {"divide": 1 / number, "multiply": float(number)}.get(action, 1.0)
    offset = {"add": float(number), "subtract": -float(number)}.get(action, 0.0)
    rebuilding.notes.append(f"Layer {name!r} is rebuilt as x * {factor:.6g} + {offset:.6g}.")
    return _rescaling(name, factor, offset) | wiring


def _rescaling(name: str, factor: float, offset: float) -> dict[str, Any]:
    return _built("keras.layers", "Rescaling", {"name": name, "scale": factor, "offset": offset})


def _built(
    module: str, class_name: str, config: dict[str, Any], *, registered: str | None = None
) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": registered}
