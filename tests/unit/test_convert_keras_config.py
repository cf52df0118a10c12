"""Configurations of any Keras are rebuilt from a list of layers, without running anything in them."""

from __future__ import annotations

import base64
import marshal
from typing import Any

import pytest

pytest.importorskip("h5py", reason="the [convert] extra is not installed")

import toy_keras
from slidecascade.errors import ConversionError
from slidecascade_convert.keras_config import Rebuilding, parse, rebuild
from slidecascade_convert.lambdas import rescaling_of


def encoded(function: Any) -> str:
    return base64.b64encode(marshal.dumps(function.__code__)).decode()


@pytest.mark.parametrize(
    ("code", "factor"),
    [
        (toy_keras.marshalled(version=(3, 6)), 1 / 255),
        (toy_keras.marshalled(version=(3, 9), divisor=-2), -0.5),
        (encoded(lambda x: x + 1), None),
        (encoded(lambda x: x / 127.5 - 1), None),
        (encoded(lambda x, y: x / 255), None),
        (encoded(lambda x: print(x) or x / 255), None),
        (toy_keras.marshalled(divisor=0), None),
        (toy_keras.marshalled(divisor=127, shift=1), None),
        ("", None),
        ("not base64!", None),
        (base64.b64encode(b"\xe3" * 400).decode(), None),
    ],
)  # fmt: skip
def test_only_a_plain_multiplication_is_recognised(code: str, factor: float | None) -> None:
    """The whole body must be the division; anything before, after or beside it is not understood."""
    assert rescaling_of(code) == factor


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    start = {"class_name": "InputLayer", "config": {"name": "image", "batch_input_shape": [None, 32, 32, 3]}}
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [start, *layers]}}


def layer(class_name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": "it"} | config}


def rebuilt(*layers: dict[str, Any], dynamic: bool = False, **lambdas: float) -> list[dict[str, Any]]:
    config = rebuild(sequential(*layers), Rebuilding(lambdas=lambdas, dynamic_size=dynamic))
    found: list[dict[str, Any]] = config["config"]["layers"]
    return found


def test_what_only_training_needs_is_dropped() -> None:
    """Initialisers, regularisers, dtypes and the deviations of Keras 2 are removed; numbers stay."""
    conv = layer(
        "SeparableConv2D", filters=4, groups=1, kernel_initializer={"class_name": "Mine"}, dtype="float16"
    )
    norm = layer("BatchNormalization", axis=[3], momentum=0.9, fused=True)
    (_, first, second) = rebuilt(conv, norm)
    assert first["config"] == {"name": "it", "filters": 4}
    assert second["config"] == {"name": "it", "axis": 3, "momentum": 0.9}


def test_one_input_and_one_output_are_not_lists() -> None:
    """Keras 2 wrote lists of one; as a layer of another model, the network would answer with a list."""
    inner = sequential(layer("ReLU"))["config"] | {
        "input_layers": [["image", 0, 0]],
        "output_layers": [["it", 0, 0]],
    }
    built = rebuild({"class_name": "Model", "config": inner}, Rebuilding(lambdas={}, dynamic_size=False))
    assert (built["config"]["input_layers"], built["config"]["output_layers"]) == (["image", 0, 0], ["it", 0, 0])


def test_an_open_size_leaves_the_channels() -> None:
    """Height and width of the input become None."""
    assert rebuilt(layer("ReLU"), dynamic=True)[0]["config"]["batch_shape"] == [None, None, None, 3]


def test_an_old_sequential_gets_its_input() -> None:
    """Keras 2.0 wrote a bare list of layers, with the shape on the first."""
    config = {"class_name": "Sequential", "config": [layer("Conv2D", batch_input_shape=[None, 8, 8, 3])]}
    built = rebuild(config, Rebuilding(lambdas={}, dynamic_size=False))
    assert [each["class_name"] for each in built["config"]["layers"]] == ["InputLayer", "Conv2D"]


def test_a_lambda_is_recognised_by_the_caller_or_its_code() -> None:
    """Either way it becomes a Rescaling."""
    entry = toy_keras.keras2_lambda(encoded(lambda x: x - 1))
    assert rebuilt(entry, lambda_1=0.5)[1]["config"]["scale"] == 0.5
    assert rebuilt(toy_keras.keras2_lambda(toy_keras.marshalled()))[1]["config"]["scale"] == 1 / 255
    with pytest.raises(ConversionError, match=r"'lambda_1' is a Lambda.*--lambda lambda_1=rescale"):
        rebuilt(entry)


@pytest.mark.parametrize(
    ("function", "number", "scale", "offset"),
    [("math.truediv", 255.0, 1 / 255, 0.0), ("math.multiply", 2, 2.0, 0.0), ("math.subtract", 1.0, 1.0, -1.0)],
)
def test_an_operation_with_a_number_becomes_a_rescaling(
    function: str, number: float, scale: float, offset: float
) -> None:
    """What tf_keras wrote for ``x / 255`` in a functional model."""
    entry = layer("TFOpLambda", function=function) | {"inbound_nodes": [["image", 0, 0, {"y": number}]]}
    made = rebuilt(entry)[1]
    assert (made["config"]["scale"], made["config"]["offset"]) == (scale, offset)
    assert made["inbound_nodes"] == [[["image", 0, 0, {}]]]


@pytest.mark.parametrize(
    ("entry", "reported"),
    [
        (layer("TFSMLayer", filepath="/etc"), "'it' is of the class 'TFSMLayer'"),
        (layer("StringLookup", vocabulary="/etc/passwd"), "class 'StringLookup'"),
        (layer("MyLayer"), "class 'MyLayer'"),
        (layer("Conv2D", activation="my_activation"), "activation 'my_activation'"),
        (layer("Conv2D", activation={"class_name": "function", "config": "os.system"}), "activation 'os.system'"),
        (layer("Conv2D", filters={"class_name": "Thing"}), "an object as its 'filters'"),
        (layer("TFOpLambda", function="io.write") | {"inbound_nodes": [["image", 0, 0, {"y": 1}]]}, "write"),
        (layer("TFOpLambda", function="math.truediv") | {"inbound_nodes": [["image", 0, 0, {"y": 0}]]}, "truediv"),
        ({"class_name": "Conv2D"}, "without a configuration"),
    ],
)  # fmt: skip
def test_what_is_not_listed_is_refused_by_name(entry: dict[str, Any], reported: str) -> None:
    """The sentence names the layer."""
    with pytest.raises(ConversionError, match=reported):
        rebuilt(entry)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_a_configuration_that_is_not_an_object_is_rejected(text: str) -> None:
    """Also one nested deeper than any model."""
    with pytest.raises(ConversionError, match="configuration"):
        parse(text)


@pytest.mark.parametrize("config", [{}, {"class_name": "Mine"}, {"class_name": "Functional", "config": 3}])
def test_a_configuration_without_layers_is_refused(config: dict[str, Any]) -> None:
    """Subclassed models keep their code elsewhere."""
    with pytest.raises(ConversionError, match=r"class|layers"):
        rebuild(config, Rebuilding(lambdas={}, dynamic_size=False))
