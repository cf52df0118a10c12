"""The networks of the recipes, in Keras 3 with random weights, for any backend."""

from __future__ import annotations

from typing import Any

from slidecascade_convert.architectures import double_convolution


def xception(input_px: int, classes: int) -> Any:
    """Xception (Chollet 2017) at full size: RGB float32 -1 to 1 ``(N, P, P, 3)`` to softmax ``(N, classes)``."""
    import keras

    return keras.applications.Xception(weights=None, input_shape=(input_px, input_px, 3), classes=classes)


def inception(input_px: int, classes: int) -> Any:
    """InceptionV3 (Szegedy et al. 2016), Flatten, Dense 128, Dropout; softmax also for two classes.

    The reference patch classifier has one sigmoid for tumour; a softmax over two classes is the same function
    with one more column, and what a served classifier returns.
    """
    import keras
    from keras import layers

    body = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(input_px, input_px, 3))
    tensor = layers.Dense(128, activation="relu")(layers.Flatten()(body.output))
    return keras.Model(body.input, layers.Dense(classes, activation="softmax")(layers.Dropout(0.5)(tensor)))


def small_classifier(input_px: int, classes: int) -> Any:
    """The network of the bundled `nash` classifiers."""
    from slidecascade_training.recipes.xception import xception as small

    return small(input_px=input_px, classes=classes, stem=(16, 32), widths=(64, 96), name="small_classifier")


def tiny_classifier(input_px: int, classes: int) -> Any:
    """A few thousand weights, for trying a data set and for tests."""
    from slidecascade_training.recipes.xception import xception as small

    return small(input_px=input_px, classes=classes, stem=(8, 16), widths=(24,), name="tiny_classifier")


def unet(filters: tuple[int, ...] = (16, 32, 64, 128, 256), maps: int = 2) -> Any:
    """The U-Net (Ronneberger et al. 2015) of the 2018 Data Science Bowl, with two maps: foreground and interior.

    RGB float32 0 to 1 ``(N, H, W, 3)``, H and W multiples of 16, to ``(N, H, W, maps)``. The reference has the
    foreground alone; the served head needs the interior to separate touching nuclei.
    """
    import keras
    from keras import layers

    drops = (0.1, 0.1, 0.2, 0.2, 0.3)
    image = keras.Input((None, None, 3))
    tensor, skips = image, []
    for width, drop in zip(filters[:-1], drops, strict=False):
        skips.append(double_convolution(tensor, width, drop))
        tensor = layers.MaxPooling2D((2, 2))(skips[-1])
    tensor = double_convolution(tensor, filters[-1], drops[len(filters) - 1])
    for width, drop in zip(filters[-2::-1], drops[len(filters) - 2 :: -1], strict=False):
        wider = layers.Conv2DTranspose(width, (2, 2), strides=(2, 2), padding="same")(tensor)
        tensor = double_convolution(layers.Concatenate()([wider, skips.pop()]), width, drop)
    return keras.Model(image, layers.Conv2D(maps, (1, 1), activation="sigmoid")(tensor))
