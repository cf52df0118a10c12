"""Small Xception-style classifiers (Chollet 2017): separable convolutions with residual connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tensor = Any


def _separable(tensor: Tensor, filters: int) -> Tensor:
    from keras import layers

    tensor = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(tensor)
    return layers.BatchNormalization(momentum=0.95)(tensor)


def _entry_block(tensor: Tensor, filters: int) -> Tensor:
    """Two separable convolutions and a pooling by two, beside a strided projection."""
    from keras import layers

    shortcut = layers.Conv2D(filters, 1, strides=2, padding="same", use_bias=False)(tensor)
    shortcut = layers.BatchNormalization(momentum=0.95)(shortcut)
    tensor = layers.ReLU()(_separable(tensor, filters))
    tensor = _separable(tensor, filters)
    tensor = layers.MaxPooling2D(3, strides=2, padding="same")(tensor)
    return layers.ReLU()(layers.Add()([tensor, shortcut]))


def _middle_block(tensor: Tensor, filters: int) -> Tensor:
    from keras import layers

    inner = layers.ReLU()(_separable(tensor, filters))
    inner = _separable(inner, filters)
    return layers.ReLU()(layers.Add()([tensor, inner]))


def xception(*, input_px: int, classes: int, widths: Sequence[int], name: str) -> Any:
    """A keras.Model from RGB float32 (N, input_px, input_px, 3), range -1 to 1, to softmax (N, classes)."""
    import keras
    from keras import layers

    image = keras.Input((input_px, input_px, 3), name="image")
    tensor = layers.Conv2D(widths[0], 3, strides=2, padding="same", use_bias=False)(image)
    tensor = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(tensor))
    for filters in widths[1:]:
        tensor = _entry_block(tensor, filters)
    tensor = _middle_block(tensor, widths[-1])
    tensor = layers.GlobalAveragePooling2D()(tensor)
    tensor = layers.Dropout(0.2)(tensor)
    probabilities = layers.Dense(classes, activation="softmax", name="probabilities")(tensor)
    return keras.Model(image, probabilities, name=name)
