"""Reference networks by name, so that a file of weights alone can be converted.

Each is the network that its published checkpoints were trained with, built by Keras 3 with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Tensor = Any


def build(name: str, classes: int) -> Any:
    """The keras.Model called `name`, with `classes` outputs where it is a classifier.

    Raises:
        KeyError: there is no such architecture.
    """
    return ARCHITECTURES[name](classes)


def _xception(input_px: int, classes: int) -> Any:
    """Xception (Chollet 2017) with average pooling and a softmax layer; input -1 to 1."""
    import keras

    return keras.applications.Xception(weights=None, input_shape=(input_px, input_px, 3), classes=classes)


def _inception(input_px: int, classes: int) -> Any:
    """InceptionV3 (Szegedy et al. 2016), Flatten, Dense 128, Dropout and one sigmoid per class."""
    import keras
    from keras import layers

    body = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(input_px, input_px, 3))
    tensor = layers.Dense(128, activation="relu")(layers.Flatten()(body.output))
    outputs = 1 if classes == 2 else classes
    return keras.Model(body.input, layers.Dense(outputs, activation="sigmoid")(layers.Dropout(0.5)(tensor)))


def _unet(input_px: int, _classes: int) -> Any:
    """The U-Net (Ronneberger et al. 2015) of the 2018 Data Science Bowl: 16 to 256 filters, pixels / 255 inside.

    The published files hold the division as a Lambda layer; here it is a Rescaling.
    """
    import keras
    from keras import layers

    image = keras.Input((input_px, input_px, 3))
    tensor = layers.Rescaling(1 / 255)(image)
    skips = []
    for filters, dropout in ((16, 0.1), (32, 0.1), (64, 0.2), (128, 0.2)):
        skips.append(double_convolution(tensor, filters, dropout))
        tensor = layers.MaxPooling2D((2, 2))(skips[-1])
    tensor = double_convolution(tensor, 256, 0.3)
    for filters, dropout in ((128, 0.2), (64, 0.2), (32, 0.1), (16, 0.1)):
        wider = layers.Conv2DTranspose(filters, (2, 2), strides=(2, 2), padding="same")(tensor)
        tensor = double_convolution(layers.Concatenate()([wider, skips.pop()]), filters, dropout)
    return keras.Model(image, layers.Conv2D(1, (1, 1), activation="sigmoid")(tensor))


def double_convolution(tensor: Tensor, filters: int, dropout: float) -> Tensor:
    """Two 3 x 3 convolutions of a U-Net's level, with dropout between them."""
    from keras import layers

    def convolution(inner: Tensor) -> Tensor:
        layer = layers.Conv2D(filters, 3, activation="elu", kernel_initializer="he_normal", padding="same")
        return layer(inner)

    return convolution(layers.Dropout(dropout)(convolution(tensor)))


ARCHITECTURES: Final[Mapping[str, Callable[[int], Any]]] = {
    "xception-72": lambda classes: _xception(72, classes),
    "xception-96": lambda classes: _xception(96, classes),
    "inception-v3-299": lambda classes: _inception(299, classes),
    "unet-256": lambda classes: _unet(256, classes),
}
