"""Small Xception-style classifiers (Chollet 2017): separable convolutions with residual connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tensor = Any


def _normalised(tensor: Tensor) -> Tensor:
    from keras import layers

    # Short runs: the default momentum of 0.99 would leave the moving averages behind the weights.
    return layers.BatchNormalization(momentum=0.95)(tensor)


def _strided(tensor: Tensor, filters: int, size: int) -> Tensor:
    from keras import layers

    return _normalised(layers.Conv2D(filters, size, strides=2, padding="same", use_bias=False)(tensor))


def _separable(tensor: Tensor, filters: int) -> Tensor:
    from keras import layers

    return _normalised(layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(tensor))


def _entry_block(tensor: Tensor, filters: int) -> Tensor:
    """Two separable convolutions and a pooling by two, beside a strided projection."""
    from keras import layers

    shortcut = _strided(tensor, filters, 1)
    tensor = layers.ReLU()(_separable(tensor, filters))
    tensor = _separable(tensor, filters)
    tensor = layers.MaxPooling2D(3, strides=2, padding="same")(tensor)
    return layers.ReLU()(layers.Add()([tensor, shortcut]))


def _middle_block(tensor: Tensor, filters: int) -> Tensor:
    from keras import layers

    inner = layers.ReLU()(_separable(tensor, filters))
    inner = _separable(inner, filters)
    return layers.ReLU()(layers.Add()([tensor, inner]))


def xception(*, input_px: int, classes: int, stem: Sequence[int], widths: Sequence[int], name: str) -> Any:
    """A keras.Model from RGB float32 (N, input_px, input_px, 3), range -1 to 1, to softmax (N, classes).

    `stem` are the filters of plain convolutions, `widths` those of the entry blocks; each of either halves the
    resolution. A middle block, average pooling and a dense layer follow.
    """
    import keras
    from keras import layers

    image = keras.Input((input_px, input_px, 3), name="image")
    tensor = image
    for filters in stem:
        tensor = layers.ReLU()(_strided(tensor, filters, 3))
    for filters in widths:
        tensor = _entry_block(tensor, filters)
    tensor = _middle_block(tensor, widths[-1])
    tensor = layers.GlobalAveragePooling2D()(tensor)
    tensor = layers.Dropout(0.2)(tensor)
    probabilities = layers.Dense(classes, activation="softmax", name="probabilities")(tensor)
    return keras.Model(image, probabilities, name=name)
