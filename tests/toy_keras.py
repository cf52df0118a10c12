"""Small Keras files written by Keras's own savers, and the Lambda entries that only Keras 2 wrote.

tf_keras is not installed where this is tested: its ``.h5`` files are those of Keras 3's legacy saver, with the
configuration of one layer rewritten as Keras 2 wrote it.
"""

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


def marshalled(*, divisor: int = 255, version: tuple[int, int] = (3, 6)) -> str:
    """``lambda x: x / divisor`` as CPython 3.6 to 3.10 marshals it, in the base64 of Keras 2."""
    numbers = (1, 0, 1, 2, 0x43) if version < (3, 8) else (1, 0, 0, 1, 2, 0x43)
    # LOAD_FAST 0, LOAD_CONST 1, BINARY_TRUE_DIVIDE, RETURN_VALUE.
    code = bytes([0x7C, 0, 0x64, 1, 0x1B, 0, 0x53, 0])
    constants = b")\x02Ni" + struct.pack("<i", divisor)
    rest = b")\0)\x01\xda\x01x\xa9\0r\x03\0\0\0\xfa\x1f<ipython-input-7>\xda\x08<lambda>\x01\0\0\0\xf3\0\0\0\0"
    raw = (
        b"\xe3"
        + struct.pack(f"<{len(numbers)}i", *numbers)
        + b"s"
        + struct.pack("<i", 8)
        + code
        + constants
        + rest
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
