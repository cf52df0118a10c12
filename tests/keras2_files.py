"""Files that Keras 2's own savers write: ``python keras2_files.py FOLDER NAME...``, with tf_keras.

A program of its own, because tf_keras is the other Keras and nothing of it shall reach the tests' process. For
each NAME it writes ``NAME.h5`` (the whole model), ``NAME-weights.h5``, and ``NAME.npz``: uint8 RGB ``images`` and
the network's own ``answers``. Small networks have been trained for a step, and also have a folder, ``NAME-saved``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

SIDE_PX: Final = 24
TISSUE_SEED: Final = 11


def written(folder: Path, *names: str) -> Path:
    """Run this program; `folder`, with the files."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", __file__, str(folder), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


# Each function builds its network with the Keras it is given, 2 or 3.


def unet(keras: Any) -> Any:
    """Two levels for 64 px; the division by 255 is a Lambda layer called `lambda`."""
    image = keras.Input((64, 64, 3))
    return keras.Model(image, _two_levels(keras, keras.layers.Lambda(lambda x: x / 255)(image)))


def operation_unet(keras: Any) -> Any:
    """The same with the division written as ``image / 255``, a TFOpLambda."""
    image = keras.Input((64, 64, 3))
    return keras.Model(image, _two_levels(keras, image / 255))


def swapping_unet(keras: Any) -> Any:
    """The same with a Lambda that does more than rescale."""
    image = keras.Input((64, 64, 3))
    swapped = keras.layers.Lambda(lambda x: x[..., ::-1] / 255, name="swap")(image)
    return keras.Model(image, _two_levels(keras, swapped))


def _two_levels(keras: Any, tensor: Any) -> Any:
    layers = keras.layers
    skip = layers.Conv2D(4, 3, padding="same", activation="elu", kernel_initializer="he_normal")(tensor)
    low = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(skip))
    low = layers.Dropout(0.1)(layers.BatchNormalization()(low))
    wide = layers.Conv2DTranspose(4, 2, strides=2, padding="same")(low)
    return layers.Conv2D(1, 1, activation="sigmoid")(layers.concatenate([skip, wide]))


def classifier(keras: Any) -> Any:
    """A backbone as a layer of a sequential model, with branches of equal shapes and a regulariser."""
    layers = keras.layers
    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    branches = [layers.SeparableConv2D(6, 3, use_bias=False)(image) for _ in range(3)]
    tensor = layers.add([layers.LeakyReLU(0.1 * i)(each) for i, each in enumerate(reversed(branches))])
    body = keras.Model(image, layers.BatchNormalization(scale=False)(tensor))
    head = [layers.GlobalAveragePooling2D(), layers.Dropout(0.5)]
    return keras.Sequential([body, *head, layers.Dense(3, activation="softmax", kernel_regularizer="l2")])


def channels_first(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((3, SIDE_PX, SIDE_PX))
    tensor = layers.Conv2D(4, 3, strides=2, data_format="channels_first")(image)
    tensor = layers.BatchNormalization(axis=1)(tensor)
    tensor = layers.MaxPooling2D(2, data_format="channels_first")(layers.ReLU()(tensor))
    tensor = layers.Flatten(data_format="channels_first")(tensor)
    return keras.Model(image, layers.Dense(3, activation="softmax")(tensor))


def xception(keras: Any, side_px: int) -> Any:
    return keras.applications.Xception(weights=None, input_shape=(side_px, side_px, 3), classes=3)


def inception(keras: Any) -> Any:
    layers = keras.layers
    body = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(299, 299, 3))
    tensor = layers.Dense(128, activation="relu")(layers.Flatten()(body.output))
    return keras.Model(body.input, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.5)(tensor)))


def reference_unet(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((256, 256, 3))
    tensor, skips = layers.Lambda(lambda x: x / 255)(image), []
    for filters in (16, 32, 64, 128):
        skips.append(_double(layers, tensor, filters))
        tensor = layers.MaxPooling2D((2, 2))(skips[-1])
    tensor = _double(layers, tensor, 256)
    for filters in (128, 64, 32, 16):
        wider = layers.Conv2DTranspose(filters, (2, 2), strides=(2, 2), padding="same")(tensor)
        tensor = _double(layers, layers.concatenate([wider, skips.pop()]), filters)
    return keras.Model(image, layers.Conv2D(1, (1, 1), activation="sigmoid")(tensor))


def _double(layers: Any, tensor: Any, filters: int) -> Any:
    for dropout in (0.1, 0.0):
        layer = layers.Conv2D(filters, 3, activation="elu", kernel_initializer="he_normal", padding="same")
        tensor = layers.Dropout(dropout)(layer(tensor)) if dropout else layer(tensor)
    return tensor


SMALL: Final[Mapping[str, Callable[[Any], Any]]] = {
    "unet": unet,
    "operation-unet": operation_unet,
    "swapping-unet": swapping_unet,
    "classifier": classifier,
    "channels-first": channels_first,
}
REFERENCE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "xception-72": lambda keras: xception(keras, 72),
    "xception-96": lambda keras: xception(keras, 96),
    "inception-v3-299": inception,
    "unet-256": reference_unet,
}


def _write(name: str, folder: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(5)
    model = {**SMALL, **REFERENCE}[name](tf_keras)
    sides = model.input_shape[1:3] if model.input_shape[3] == 3 else model.input_shape[2:]
    if name in SMALL:
        images = np.random.default_rng(6).integers(0, 256, (3, *sides, 3), np.uint8)
        _train(model, _pixels(name, images))
        model.save(folder / f"{name}-saved")
    else:
        images = _fitted(tf_keras, model, name)
    np.savez(folder / f"{name}.npz", images=images, answers=model(_pixels(name, images)).numpy())
    model.save(folder / f"{name}.h5")
    model.save_weights(folder / f"{name}-weights.h5")


def _pixels(name: str, images: Any) -> Any:
    """What the network is given: the U-Nets divide by themselves, the Xceptions were trained on -1 to 1."""
    pixels = images.astype(np.float32)
    if "unet" in name:
        return pixels
    if name.startswith("xception"):
        return pixels / 127.5 - 1
    return (pixels / 255).transpose(0, 3, 1, 2) if name == "channels-first" else pixels / 255


def _train(model: Any, pixels: Any) -> None:
    """A step, so that the file holds an optimizer's state; the metric and the loss are their author's own."""
    import tensorflow as tf

    def dice_coef(truth: Any, answer: Any) -> Any:
        return 2 * tf.reduce_sum(truth * answer) / (tf.reduce_sum(truth) + tf.reduce_sum(answer) + 1)

    def dice_loss(truth: Any, answer: Any) -> Any:
        return -dice_coef(truth, answer)

    rng = np.random.default_rng(7)
    model.set_weights([each + rng.uniform(0.01, 0.2, each.shape) for each in model.get_weights()])
    model.compile("adam", loss=dice_loss, metrics=[dice_coef])
    model.train_on_batch(pixels, np.ones((len(pixels), *model.output_shape[1:]), np.float32))


def _fitted(keras: Any, model: Any, name: str) -> Any:
    """Random weights but for the last layer, whose answers are spread over what there is; images of tissue.

    Classifiers answer 0.5 at the mean of the images, a U-Net finds about as many nuclei as there are.
    """
    from slidecascade_convert.tiles import rendered
    from slidecascade_render.liver.tissue import TissueOptions, render

    height, width = model.input_shape[1:3]
    tissue = render(TissueOptions(seed=TISSUE_SEED, mpp=0.5), width_px=256, height_px=256)
    images = tissue.image[None] if "unet" in name else rendered(4, height, width, mpp=0.25)
    last = model.layers[-1]
    features = keras.Model(model.input, last.input)(_pixels(name, images)).numpy()
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    kernel = last.get_weights()[0].astype(np.float64)
    share = 0.5
    if "unet" in name:
        is_nucleus = (tissue.nuclei > 0).ravel()
        share = 1 - is_nucleus.mean()
        columns = np.column_stack([flat, np.ones(len(flat))])
        kernel = np.linalg.lstsq(columns, is_nucleus.astype(np.float64), rcond=None)[0][:-1].reshape(kernel.shape)
    logits = flat @ kernel.reshape(flat.shape[1], -1)
    spread = 2 / logits.std(axis=0)
    last.set_weights([kernel * spread, -spread * np.quantile(logits, share, axis=0)])
    return images


if __name__ == "__main__":
    for chosen in sys.argv[2:]:
        _write(chosen, Path(sys.argv[1]))
