"""Small Keras 3 networks, and the Lambda entries of Keras 2 with the bytecode of a Python that is gone."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import h5py

SIDE_PX = 24


def unet(*, upsampling: str = "transpose", channels: int = 1, activation: str | None = "sigmoid") -> Any:
    """Two levels, fixed at 64 px, with the division by 255 inside as the layer `lambda_1`."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    image = keras.Input((64, 64, 3), name="input_1")
    tensor = layers.Rescaling(1 / 255, name="lambda_1")(image)
    skip = layers.Conv2D(4, 3, padding="same", activation="elu", kernel_initializer="he_normal")(tensor)
    low = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(skip))
    low = layers.Dropout(0.1)(layers.BatchNormalization()(low))
    if upsampling == "transpose":
        wide = layers.Conv2DTranspose(4, 2, strides=2, padding="same")(low)
    else:
        wide = layers.UpSampling2D(interpolation=upsampling)(low)
    maps = layers.Conv2D(channels, 1, activation=activation, name="maps")
    return _trained(keras.Model(image, maps(layers.Concatenate()([skip, wide]))))


def classifier(*, outputs: int = 3, activation: str = "softmax") -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(6)
    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    tensor = layers.SeparableConv2D(8, 3, strides=2, use_bias=False)(image)
    tensor = layers.DepthwiseConv2D(3)(layers.PReLU()(layers.BatchNormalization()(tensor)))
    tensor = layers.Flatten()(layers.AveragePooling2D(2)(layers.ReLU(6.0)(tensor)))
    return _trained(
        keras.Model(image, layers.Dense(outputs, activation=activation, kernel_regularizer="l2")(tensor))
    )


def nested() -> Any:
    """A backbone as a layer of a sequential model: how transfer learning is usually saved."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(7)
    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    tensor = layers.LeakyReLU(0.1)(layers.Conv2D(6, 3, name="inner")(image))
    body = keras.Model(image, layers.ZeroPadding2D()(tensor), name="backbone")
    head = [layers.GlobalMaxPooling2D(), layers.Dropout(0.5), layers.Dense(3), layers.Softmax()]
    return _trained(keras.Sequential([keras.Input((SIDE_PX, SIDE_PX, 3)), body, *head]))


def channels_first() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(8)
    image = keras.Input((3, SIDE_PX, SIDE_PX))
    tensor = layers.Conv2D(4, 3, strides=2, data_format="channels_first")(image)
    tensor = layers.BatchNormalization(axis=1)(tensor)
    tensor = layers.GlobalAveragePooling2D(data_format="channels_first")(tensor)
    return _trained(keras.Model(image, layers.Dense(3, activation="softmax")(tensor)))


def _trained(model: Any) -> Any:
    """Compiled with a metric of its own and an optimizer with state, and no layer at its initial value."""
    import numpy as np

    rng = np.random.default_rng(9)
    model.set_weights([value + rng.uniform(0.01, 0.2, value.shape) for value in model.get_weights()])
    model.compile("adam", loss=dice_coef)
    shape = model.input_shape[1:]
    model.optimizer.build(model.trainable_variables)
    assert len(shape) == 3
    return model


def dice_coef(truth: Any, answer: Any) -> Any:
    """A loss that only its author's code defines."""
    import keras

    return -2 * keras.ops.sum(truth * answer) / (keras.ops.sum(truth) + keras.ops.sum(answer) + 1)


def marshalled(*, divisor: int = 255, version: tuple[int, int] = (3, 6), shift: int | None = None) -> str:
    """``lambda x: x / divisor`` (``- shift``) as CPython 3.6 to 3.10 marshals it, in the base64 of Keras 2.

    A value is a type byte and its content. The type byte has its high bit set where the value may be referred to
    later, by ``r`` and its number among such values: 0 the code object, then what else there is more than once.
    """
    body = bytes([0x7C, 0, 0x64, 1, 0x1B, 0])  # LOAD_FAST 0; LOAD_CONST 1; BINARY_TRUE_DIVIDE
    constants = b"N" + b"\xe9" + struct.pack("<i", divisor)  # None; the divisor, value 1: small numbers are shared
    count, shared = 2, 2
    if shift is not None:
        body += bytes([0x64, 2, 0x18, 0])  # LOAD_CONST 2; BINARY_SUBTRACT
        constants += b"\xe9" + struct.pack("<i", shift)
        count, shared = 3, 3
    body += bytes([0x53, 0])  # RETURN_VALUE
    # Arguments, since 3.8 positional-only ones, keyword-only ones, locals, stack; optimized, newlocals, nofree.
    numbers = (1, 0, 1, 2, 0x43) if version < (3, 8) else (1, 0, 0, 1, 2, 0x43)
    empty = b"r" + struct.pack("<i", shared)
    raw = b"".join(
        [
            b"\xe3" + struct.pack(f"<{len(numbers)}i", *numbers),
            b"s" + struct.pack("<i", len(body)) + body,
            b")" + bytes([count]) + constants,
            b"\xa9\0",  # names: the empty tuple
            b")\x01" + b"\xda\x01x",  # varnames: an interned string
            empty + empty,  # freevars, cellvars
            b"\xfa\x1e<ipython-input-7-4a1b2c3d4e5f>",  # filename: its length is one byte
            b"\xda\x08<lambda>",  # name
            struct.pack("<i", 1),  # firstlineno
            b"\xf3" + struct.pack("<i", 0),  # lnotab: no bytes
        ]
    )
    return base64.encodebytes(raw).decode()


def rewrite_layer(path: Path, name: str, entry: dict[str, Any]) -> Path:
    """Replace the class and configuration of one layer in an ``.h5`` file."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["config"].get("name") == name:
                layer.update(entry)
        file.attrs["model_config"] = json.dumps(config)
    return path


def keras2_lambda(code: str, name: str = "lambda_1") -> dict[str, Any]:
    """A Lambda layer's entry as Keras 2.1 wrote it."""
    config = {
        "name": name,
        "trainable": True,
        "function": [code, None, None],
        "function_type": "lambda",
        "output_shape": None,
        "output_shape_type": "raw",
        "arguments": {},
    }
    return {"class_name": "Lambda", "config": config}
