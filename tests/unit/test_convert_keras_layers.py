"""Every layer and activation of Keras: converted with the same answers, or refused by name."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import keras_layer_table as table
from conftest import REPOSITORY
from slidecascade_convert.keras_layers import ACTIVATIONS, APPLICATION_LAYERS, AUGMENTATIONS, LAYERS

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow and its exporter warn about their own code

PAGE = REPOSITORY / "docs" / "keras-layers.md"


@pytest.mark.slow
def test_the_page_is_what_is_measured() -> None:
    """Each layer and activation is tried; a page that says otherwise is written anew by `keras_layer_table.py`."""
    layers = {name: table.measure(name) for name in [*table.public_layers(), *APPLICATION_LAYERS]}
    activations = {name: table.measure_activation(name) for name in table.public_activations()}

    assert PAGE.read_text(encoding="utf-8") == table.page(layers, activations)


def test_what_is_rebuilt_is_a_layer_of_keras() -> None:
    """The lists hold no name that the installed Keras does not know."""
    assert set(table.public_layers()) >= LAYERS | AUGMENTATIONS
    assert set(table.public_activations()) >= ACTIVATIONS


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "ConvNeXt", "ResNetV2"]
)
def test_networks_of_keras_applications_convert(family: str) -> None:
    """Whole networks, as users fine-tune them, with random weights: the answers are Keras's own."""
    table.compare(_application(family), brightest=255, is_deep=True)


def _application(family: str) -> object:
    import keras
    import numpy as np

    keras.utils.set_random_seed(3)
    shape = {"input_shape": (32, 32, 3), "weights": None, "classes": 3, "classifier_activation": None}
    if family == "ConvNeXt":
        from keras.src.applications.convnext import ConvNeXt

        model = ConvNeXt([1, 1, 1, 1], [8, 16, 24, 32], 0.1, **shape)
    elif family == "ResNetV2":
        model = keras.applications.ResNet50V2(**shape)
    else:
        model = getattr(keras.applications, family)(**shape)
    # The statistics of a batch, as training leaves them: with those of the start no signal reaches the end.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, 0.5))
    rng = np.random.default_rng(3)
    images = 255 * rng.random((128, 32, 32, 3)) * rng.random((128, 1, 1, 3))  # as those that are compared
    model(images.astype(np.float32), training=True)
    return model
