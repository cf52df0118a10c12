"""What becomes of each layer and activation of Keras: measured one by one, and written as a page.

`python tests/keras_layer_table.py docs/keras-layers.md` writes the page anew.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slidecascade.errors import ConversionError
from slidecascade_convert.keras_config import Rebuilding, rebuild
from slidecascade_convert.keras_layers import ACTIVATIONS, APPLICATION_LAYERS, AUGMENTATIONS, LAYERS
from slidecascade_convert.keras_original import open_keras
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.sessions import open_session
from slidecascade_convert.source import SourceFormat

SIDE_PX = 24
TOLERANCE = 1e-4
HEAD = """# Keras layers and activations

What `slidecascade convert` makes of each layer and activation of Keras {version}. Written and checked by
`tests/unit/test_convert_keras_layers.py`: a small network with the layer and random weights is saved by Keras,
converted, and its answers are compared with Keras's own on random images (at most {tolerance:g} apart).

- **converts**: rebuilt from the file, and the served graph answers as Keras does.
- **left out**: changes images in training only; Keras answers the same without it.
- **refused**: not rebuilt from a file. The message names the layer and the ways round it: `--arch module:callable`
  with the weights, or ONNX exported where the network runs.

A `Lambda` converts when it multiplies or divides by one number, or when `--lambda NAME=rescale:FACTOR` states so.

| layer | result |
|---|---|
"""
ACTIVATION_HEAD = """
| activation | result |
|---|---|
"""


@dataclass(frozen=True)
class Case:
    """`call` puts the layer behind a feature map ``(24, 24, 8)``, with `rows` behind its pixels ``(576, 8)``."""

    call: Callable[[Any, Any], Any]
    rows: bool = False


def _plain(**options: Any) -> Case:
    return Case(lambda kind, maps: kind(**options)(maps))


def _rows(**options: Any) -> Case:
    return Case(lambda kind, rows: kind(**options)(rows), rows=True)


_PAIR = Case(lambda kind, maps: kind()([maps, _other(maps)]))


def _other(maps: Any) -> Any:
    from keras import layers

    return layers.Conv2D(8, 1)(maps)


def _of_pixels(**options: Any) -> Case:
    """On the image itself, of one channel more or less than maps have."""
    return Case(lambda kind, maps: kind(**options)(_three(maps)))


def _three(maps: Any) -> Any:
    from keras import layers

    return layers.Conv2D(3, 1, activation="sigmoid")(maps)


CASES: Mapping[str, Case] = {
    "Activation": _plain(activation="relu"),
    "AdaptiveAveragePooling2D": _plain(output_size=4),
    "AdaptiveMaxPooling2D": _plain(output_size=4),
    "AdditiveAttention": Case(lambda kind, rows: kind()([rows, rows]), rows=True),
    "AlphaDropout": _plain(rate=0.5),
    "Attention": Case(lambda kind, rows: kind()([rows, rows]), rows=True),
    "AveragePooling1D": _rows(pool_size=2),
    "AveragePooling2D": _plain(pool_size=2),
    "Conv1D": _rows(filters=6, kernel_size=3, padding="causal"),
    "Conv1DTranspose": _rows(filters=6, kernel_size=3, strides=2),
    "Conv2D": _plain(filters=6, kernel_size=3, groups=2, dilation_rate=2),
    "Conv2DTranspose": _plain(filters=6, kernel_size=3, strides=2),
    "Cropping1D": _rows(),
    "Dense": _plain(units=5),
    "DepthwiseConv1D": _rows(kernel_size=3),
    "DepthwiseConv2D": _plain(kernel_size=3),
    "Dot": Case(lambda kind, rows: kind(axes=1)([rows, rows]), rows=True),
    "Dropout": _plain(rate=0.5),
    "EinsumDense": _plain(equation="nhwc,cd->nhwd", output_shape=(SIDE_PX, SIDE_PX, 5), bias_axes="d"),
    "GaussianDropout": _plain(rate=0.5),
    "GaussianNoise": _plain(stddev=0.5),
    "GlobalAveragePooling1D": _rows(),
    "GlobalMaxPooling1D": _rows(),
    "GroupNormalization": _plain(groups=4),
    "GroupQueryAttention": Case(lambda kind, rows: kind(4, 4, 2)(rows, rows), rows=True),
    "InputLayer": Case(lambda kind, maps: maps),
    "MaxPooling1D": _rows(),
    "MultiHeadAttention": Case(lambda kind, rows: kind(2, 4)(rows, rows), rows=True),
    "Normalization": _plain(mean=[0.1] * 8, variance=[0.3] * 8),
    "Permute": _plain(dims=(2, 1, 3)),
    "RepeatVector": Case(lambda kind, maps: kind(3)(_pooled(maps))),
    "Rescaling": _plain(scale=2.0, offset=-1.0),
    "Resizing": _plain(height=12, width=20),
    "Reshape": _plain(target_shape=(24 * 24, 8)),
    "SeparableConv1D": _rows(filters=6, kernel_size=3),
    "SeparableConv2D": _plain(filters=6, kernel_size=3),
    "SpatialDropout1D": _rows(rate=0.5),
    "SpatialDropout2D": _plain(rate=0.5),
    "UpSampling1D": _rows(),
    "UpSampling2D": _plain(interpolation="bilinear"),
    "ZeroPadding1D": _rows(),
    "LayerScale": _plain(init_values=0.5, projection_dim=8),
    "StochasticDepth": _plain(drop_path_rate=0.2),
    "CustomScaleLayer": Case(lambda kind, maps: kind(0.3)([maps, _other(maps)])),
    "Lambda": Case(lambda kind, maps: kind(lambda tensor: tensor / 255.0)(maps)),
    "AugMix": _of_pixels(value_range=(0, 1)),
    "CutMix": _of_pixels(),
    "MixUp": _of_pixels(),
    "RandAugment": _of_pixels(value_range=(0, 1)),
    "RandomBrightness": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomColorDegeneration": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomColorJitter": _of_pixels(value_range=(0, 1), brightness_factor=0.5),
    "RandomContrast": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomElasticTransform": _of_pixels(value_range=(0, 1)),
    "RandomErasing": _of_pixels(value_range=(0, 1)),
    "RandomGaussianBlur": _of_pixels(value_range=(0, 1)),
    "RandomGrayscale": _of_pixels(),
    "RandomHue": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomInvert": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomPerspective": _of_pixels(),
    "RandomPosterization": _of_pixels(factor=4, value_range=(0, 1)),
    "RandomRotation": _of_pixels(factor=0.5),
    "RandomSaturation": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomSharpness": _of_pixels(factor=0.5, value_range=(0, 1)),
    "RandomShear": _of_pixels(x_factor=0.5),
    "RandomTranslation": _of_pixels(height_factor=0.5, width_factor=0.5),
    "RandomZoom": _of_pixels(height_factor=0.5),
    **dict.fromkeys(["Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"], _PAIR),
}
"""How each layer is called where ``kind()(maps)`` is not enough."""


def _pooled(maps: Any) -> Any:
    from keras import layers

    return layers.GlobalAveragePooling2D()(maps)


def public_layers() -> Mapping[str, type]:
    """Every layer that this Keras offers, by the name that files hold; some have two others."""
    import keras

    found = {name: getattr(keras.layers, name) for name in dir(keras.layers)}
    kinds = {
        name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, keras.Layer)
    }
    first = {name: kind for name, kind in kinds.items() if kind.__name__ == name or kind.__name__ not in kinds}
    return dict(sorted(first.items(), key=lambda item: item[0].lower()))


def measure(name: str) -> str:
    """The result for the layer `name`: a difference within `TOLERANCE`, or the refusal.

    Raises:
        ConversionError: a layer that is said to be rebuilt is not.
        AssertionError: its answers differ, or it shows nothing.
    """
    if name not in LAYERS | AUGMENTATIONS | APPLICATION_LAYERS.keys() | {"Lambda"}:
        return _refusal(name)
    compare(_network(lambda maps: _call(name, maps), rows=CASES.get(name, _plain()).rows))
    return "left out" if name in AUGMENTATIONS else "converts"


def measure_activation(name: str) -> str:
    """The result for the activation `name`, as `measure`."""
    from keras import layers

    if name not in ACTIVATIONS:
        return "refused"
    compare(_network(layers.Activation(name)))
    return "converts"


def _refusal(name: str) -> str:
    config = {"class_name": name, "config": {"name": "strange"}, "name": "strange", "inbound_nodes": []}
    model = {"class_name": "Functional", "config": {"name": "m", "layers": [config]}}
    try:
        rebuild(model, Rebuilding(lambdas={}, dynamic_size=False))
    except ConversionError as error:
        if repr(name) in error.detail and "--arch" in error.detail:
            return "refused"
        raise
    raise AssertionError(f"{name} is neither listed nor refused")


def _call(name: str, maps: Any) -> Any:
    if name in APPLICATION_LAYERS:
        module = __import__(APPLICATION_LAYERS[name], fromlist=[name])
        return CASES[name].call(getattr(module, name), maps)
    return CASES.get(name, _plain()).call(public_layers()[name], maps)


def _network(middle: Callable[[Any], Any], *, rows: bool = False) -> Any:
    """Image, a convolution, `middle`, a dense layer of three; weights are random, those of statistics too."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    maps = layers.Conv2D(8, 3, padding="same")(image)
    maps = middle(layers.Reshape((SIDE_PX * SIDE_PX, 8))(maps) if rows else maps)
    if len(maps.shape) == 4:
        maps = layers.Conv2D(4, 3)(maps)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(maps)))
    rng = np.random.default_rng(5)
    for weight in model.weights:
        low = 0.0 if "variance" in weight.path else -0.4
        if weight.dtype.startswith("float"):
            weight.assign(weight + rng.uniform(low, 0.4, weight.shape))
    return model


def compare(model: Any, *, brightest: float = 1.0, is_deep: bool = False) -> None:
    """Save, open, export, run on images up to `brightest`: the answers are Keras's, and differ between images.

    What is rebuilt answers exactly alike. Rounding grows through a deep network of random weights, so that for one
    the graph may be three times as far off as Keras's own graph mode is from its eager mode.
    """
    images = np.random.default_rng(6).random((3, *model.input_shape[1:]), np.float32)
    images *= np.random.default_rng(7).random((3, 1, 1, 3), np.float32)  # a colour each, for global pooling
    images *= brightest
    expected = model(images, training=False).numpy()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "layer.keras")
        model.save(path)
        scratch = Path(name, "scratch")
        scratch.mkdir()
        original = open_keras(_request(path), SourceFormat.KERAS_ZIP, scratch)
        session = open_session(original.export(), threads=1)
        found = session.run(None, {session.get_inputs()[0].name: images})[0]
        rebuilt = original.predict(images)
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max(), (
        "all images get the same answer, so that nothing is compared"
    )
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    assert np.abs(rebuilt - expected).max() <= allowed
    if is_deep:
        allowed += 3 * float(np.abs(model.predict(images, verbose=0) - expected).max())
    assert np.abs(found - expected).max() <= allowed


def _request(path: Path) -> ConversionRequest:
    return ConversionRequest(
        source=path,
        name="layer",
        task="classify",
        head="softmax",
        out=path.parent,
        classes=("a", "b", "c"),
        normalisation=Normalisation(),
    )


def page(layers: Mapping[str, str], activations: Mapping[str, str]) -> str:
    """The page as Markdown."""
    import keras

    version = ".".join(keras.__version__.split(".")[:2])
    rows = [f"| `{name}` | {result} |\n" for name, result in layers.items()]
    more = [f"| `{name}` | {result} |\n" for name, result in activations.items()]
    return HEAD.format(version=version, tolerance=TOLERANCE) + "".join(rows) + ACTIVATION_HEAD + "".join(more)


def public_activations() -> list[str]:
    """Every activation that this Keras offers."""
    import keras

    names = [name for name in dir(keras.activations) if not name.startswith("_")]
    return sorted(set(names) - {"deserialize", "get", "serialize"}, key=str.lower)


def main(target: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = {}
    for name in [*public_layers(), *APPLICATION_LAYERS]:
        try:
            found[name] = measure(name)
        except (ConversionError, AssertionError, ValueError, TypeError, RuntimeError) as error:
            found[name] = "FAILS"
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    activations = {}
    for name in public_activations():
        try:
            activations[name] = measure_activation(name)
        except (ConversionError, AssertionError, ValueError, TypeError, RuntimeError) as error:
            activations[name] = "FAILS"
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(found, activations), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
