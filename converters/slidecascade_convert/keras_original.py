"""Keras files, opened by Keras 3 on TensorFlow after they were checked without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.architectures import ARCHITECTURES, build
from slidecascade_convert.keras_config import DYNAMIC_UPSAMPLING, Rebuilding, parse, rebuild
from slidecascade_convert.keras_files import KerasFile, read_archive, read_hdf5
from slidecascade_convert.original import Facts, Original, image_shape
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.source import SourceFormat
from slidecascade_convert.tensorflow_graph import OPSET, onnx_from_function

if TYPE_CHECKING:
    import onnx


def open_keras(request: ConversionRequest, form: SourceFormat, scratch: Path) -> Original:
    """The Keras model in the request's source, rebuilt from its configuration and its weights.

    Raises:
        ConversionError: when the file cannot be read, rebuilt without running its code, or does not fit its
            architecture.
    """
    read = read_hdf5 if form is SourceFormat.HDF5 else read_archive
    file = read(request.source, scratch)
    # Fully convolutional networks run at any size; a classifier keeps the size it was trained at.
    rebuilding = Rebuilding(lambdas=request.lambdas, dynamic_size=request.task == "segment")
    model = _network(request, file, rebuilding)
    _load_weights(model, file.weights)
    for layer in _layers(model):
        if type(layer).__name__ == "Normalization" and layer.input_mean is None:
            layer.finalize_state()  # files of weights alone, and older ones, load its state without it
    unused = set(request.lambdas) - {name for name in request.lambdas if f"{name!r}" in " ".join(rebuilding.notes)}
    if unused:
        raise ConversionError(f"The model has no Lambda layer {sorted(unused)[0]!r}: correct --lambda.")
    return _KerasOriginal(model, file, tuple(rebuilding.notes))


def _network(request: ConversionRequest, file: KerasFile, rebuilding: Rebuilding) -> Any:
    if request.arch is None and file.config is None:
        raise ConversionError(
            f"The source holds weights alone: name the network they are for, --arch {'|'.join(ARCHITECTURES)} or "
            "--arch module:callable."
        )
    if request.arch is None:
        return _deserialised(rebuild(file.config or {}, rebuilding), rebuilding)
    if request.arch in ARCHITECTURES:
        reference = build(request.arch, len(request.classes))
        return _deserialised(rebuild(parse(reference.to_json()), rebuilding), rebuilding)
    return _called(request.arch)


def _called(arch: str) -> Any:
    """What the caller's own function builds."""
    import keras

    module, _, attribute = arch.partition(":")
    if not attribute:
        raise ConversionError(
            f"There is no architecture {arch!r}: choose {', '.join(ARCHITECTURES)} or give module:callable."
        )
    # The caller's own code, not the file's: it lies where the command was called.
    sys.path.append(os.getcwd())
    try:
        model = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ConversionError(f"--arch {arch} cannot be called without arguments: {error}.") from error
    if not isinstance(model, keras.Model):
        raise ConversionError(f"--arch {arch} returns {type(model).__name__}: return a keras.Model.")
    return model


def _deserialised(config: Mapping[str, Any], rebuilding: Rebuilding) -> Any:
    import keras

    try:
        return keras.saving.deserialize_keras_object(
            dict(config), custom_objects={DYNAMIC_UPSAMPLING: _dynamic_upsampling()}, safe_mode=True
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        hint = "it is not fully convolutional" if rebuilding.dynamic_size else "its configuration is damaged"
        raise ConversionError(
            f"The network cannot be built; perhaps {hint}. ({_first_sentence(error)})"
        ) from error


def _dynamic_upsampling() -> type:
    """UpSampling2D whose bilinear form Keras 3 cannot export for an open height and width."""
    import tensorflow as tf
    from keras import layers

    class DynamicUpSampling2D(layers.UpSampling2D):  # type: ignore[misc]  # keras has no types
        def call(self, inputs: Any) -> Any:
            if self.data_format != "channels_last":
                return super().call(inputs)
            size = tf.shape(inputs)[1:3] * tf.constant(self.size, tf.int32)
            return tf.image.resize(inputs, size, method=self.interpolation)

    return DynamicUpSampling2D


def _load_weights(model: Any, weights: Path) -> None:
    try:
        model.load_weights(weights)
    except (ValueError, KeyError, OSError, AttributeError, TypeError) as error:
        raise ConversionError(f"The weights do not fit the network: {_first_sentence(error)}") from error


def _layers(model: Any) -> Iterator[Any]:
    """Every layer, those of models within the model too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


@contextmanager
def _exportable(model: Any) -> Iterator[None]:
    """While `model` is exported, grouped convolutions run group by group: Keras compiles them by XLA, which has no
    ONNX form."""
    grouped = [each for each in _layers(model) if type(each).__name__ == "Conv2D" and each.groups > 1]
    counts = [layer.groups for layer in grouped]
    for layer in grouped:
        layer.convolution_op = _in_groups(layer.convolution_op, layer.groups, layer.data_format)
        layer.groups = 1
    try:
        yield
    finally:
        for layer, count in zip(grouped, counts, strict=True):
            layer.groups = count
            del layer.convolution_op


def _in_groups(convolve: Callable[[Any, Any], Any], groups: int, data_format: str) -> Callable[[Any, Any], Any]:
    import tensorflow as tf

    axis = -1 if data_format == "channels_last" else 1

    def grouped(inputs: Any, kernel: Any) -> Any:
        parts = zip(tf.split(inputs, groups, axis), tf.split(kernel, groups, -1), strict=True)
        return tf.concat([convolve(part, weights) for part, weights in parts], axis)

    return grouped


class _KerasOriginal:
    def __init__(self, model: Any, file: KerasFile, notes: tuple[str, ...]) -> None:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ConversionError(
                f"The model has {len(model.inputs)} inputs and {len(model.outputs)} outputs: save a model with "
                "one image as its input and one output."
            )
        image = image_shape("The model's input", list(model.inputs[0].shape))
        self._model = model
        self.facts = Facts(
            layout=image.layout,
            height_px=image.height_px,
            width_px=image.width_px,
            is_grey=image.is_grey,
            has_rescaling=any(layer.__class__.__name__ == "Rescaling" for layer in model.layers),
            versions={"saved_by_keras": file.keras_version}
            | {name: metadata.version(name) for name in ("keras", "tensorflow", "tf2onnx")},
            notes=notes,
        )

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(self._model(pixels, training=False))

    def export(self) -> onnx.ModelProto:
        import tensorflow as tf

        shape = list(self._model.inputs[0].shape)
        signature = [tf.TensorSpec([None, *shape[1:]], tf.float32, name="pixels")]
        function = tf.function(lambda pixels: self._model(pixels, training=False), input_signature=signature)
        with _exportable(self._model):
            return onnx_from_function(function, signature, opset=OPSET)


def _first_sentence(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line[:200].rstrip(".") + "."
