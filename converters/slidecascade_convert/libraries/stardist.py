"""StarDist's folders (Schmidt et al. 2018): ``config.json``, ``thresholds.json`` and weights as Keras saves them.

The network is built from the configuration, a U-Net of CSBDeep (Weigert et al. 2018) on a coarse grid with two
outputs. Its layers are named as StarDist names them, and take their weights by these names; layers that StarDist
leaves without a name take theirs in the order in which they were made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slidecascade.errors import ConversionError
from slidecascade.heads.stardist import STARDIST, StardistOptions
from slidecascade.models.tensors import InputSpec, OutputSpec, Tensors
from slidecascade_convert.keras_files import read_hdf5
from slidecascade_convert.libraries.graph import with_stated_names
from slidecascade_convert.libraries.network import RGB, LibraryNetwork, channel_image, channels_of, mpp_of
from slidecascade_convert.library_request import LibraryRequest
from slidecascade_convert.tensorflow_graph import OPSET, onnx_from_function

if TYPE_CHECKING:
    import h5py
    import onnx

_MAX_JSON_BYTES: Final = 1 << 20
_UNUSED: Final = re.compile(r"(prob|features)_class")
"""Layers of a multi-class StarDist, which do not bear on where objects are."""

_NUMBERED: Final = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?")
_BYTES: Final = 255
Small = Annotated[int, Field(ge=0, le=4096)]
Pair = tuple[Annotated[int, Field(ge=1, le=15)], Annotated[int, Field(ge=1, le=15)]]


class StardistConfig(BaseModel):
    """The part of ``config.json`` that makes the network; StarDist's own names and defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    n_dim: Literal[2] = 2
    backbone: Literal["unet"] = "unet"
    n_channel_in: Annotated[int, Field(ge=1, le=4)] = 1
    n_rays: Annotated[int, Field(ge=8, le=256)] = 32
    grid: tuple[Literal[1, 2, 4], Literal[1, 2, 4]] = (1, 1)
    unet_n_depth: Annotated[int, Field(ge=1, le=6)] = 3
    unet_kernel_size: Pair = (3, 3)
    unet_n_filter_base: Annotated[int, Field(ge=1, le=512)] = 32
    unet_n_conv_per_depth: Annotated[int, Field(ge=1, le=8)] = 2
    unet_pool: Pair = (2, 2)
    unet_activation: Literal["relu", "elu", "tanh", "linear", "selu"] = "relu"
    unet_last_activation: Literal["relu", "elu", "tanh", "linear", "selu"] = "relu"
    unet_batch_norm: bool = False
    unet_prefix: Annotated[str, Field(max_length=64)] = ""
    net_conv_after_unet: Small = 128

    @model_validator(mode="after")
    def _is_square(self) -> Self:
        if self.grid[0] != self.grid[1] or self.unet_pool != (2, 2):
            raise ValueError("its grid has two different steps, or it pools by another factor than 2")
        return self

    @property
    def multiple_of(self) -> int:
        return int(self.grid[0] * 2**self.unet_n_depth)


class StardistThresholds(BaseModel):
    """``thresholds.json``; without one StarDist uses these."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prob: Annotated[float, Field(gt=0, lt=1)] = 0.5
    nms: Annotated[float, Field(gt=0, lt=1)] = 0.4


def open_stardist(request: LibraryRequest, scratch: Path) -> LibraryNetwork:
    """The network in the request's folder.

    Raises:
        InvalidRequestError: the request lacks what the files do not state.
        ConversionError: a file is damaged, or the network is none that is known here.
    """
    config = _read(request.source / "config.json", StardistConfig)
    found = request.source / "thresholds.json"
    thresholds = _read(found, StardistThresholds) if found.is_file() else StardistThresholds()
    weights = _weights_file(request.source)
    file = read_hdf5(weights, scratch)
    network = build(config)
    _load(network, file.weights, config.unet_prefix)
    usual = RGB if config.n_channel_in == len(RGB) else ("nuclear", "membrane", "cytoplasm", "other")
    channels = channels_of(request, most=config.n_channel_in, default=usual[: config.n_channel_in])
    if len(channels) != config.n_channel_in:
        raise ConversionError(f"The network takes {config.n_channel_in} channels: correct --input-channels.")
    image = channel_image(channels, layout="NHWC", multiple_of=config.multiple_of)
    options = StardistOptions(
        foreground=thresholds.prob, overlap=thresholds.nms, grid=config.grid[0], rays=config.n_rays
    )
    outputs = STARDIST.outputs_with(request.classes, options)
    divisor = float(_BYTES) if channels == RGB else 1.0
    notes = [f"Weights of {weights.name}; StarDist's thresholds {thresholds.prob:.6g} and {thresholds.nms:.6g}."]
    if not found.is_file():
        notes.append("The folder has no thresholds.json, so that StarDist's defaults are served.")
    if channels == RGB:
        notes.append(
            "Colours are divided by 255; StarDist's own scripts stretch them by percentiles of the image."
        )
    versions = {name: metadata.version(name) for name in ("keras", "tensorflow", "tf2onnx")}

    def predict(images: npt.NDArray[Any]) -> Tensors:
        prob, dist = network(images.astype(np.float32) / np.float32(divisor), training=False)
        return {"prob": np.asarray(prob), "dist": np.asarray(dist)}

    return LibraryNetwork(
        title="StarDist, 2D",
        head=STARDIST.name,
        image=image,
        outputs=outputs,
        options=options.model_dump(include={"foreground", "overlap", "grid", "rays"}),
        mpp=mpp_of(request),
        predict=predict,
        export=lambda: _exported(network, image, outputs, divisor),
        versions={"saved_by_keras": file.keras_version} | versions,
        notes=tuple(notes),
    )


def build(config: StardistConfig) -> Any:
    """The untrained keras.Model ``(N, H, W, C)`` float32 to ``prob`` and ``dist``."""
    import keras
    from keras import layers

    image = keras.Input((None, None, config.n_channel_in))
    value = image
    for _ in range(config.grid[0].bit_length() - 1):
        for _ in range(config.unet_n_conv_per_depth):
            value = layers.Conv2D(
                config.unet_n_filter_base,
                config.unet_kernel_size,
                padding="same",
                activation=config.unet_activation,
            )(value)
        value = layers.MaxPooling2D(2)(value)
    value = _unet(value, config)
    if config.net_conv_after_unet:
        value = layers.Conv2D(
            config.net_conv_after_unet,
            config.unet_kernel_size,
            padding="same",
            activation=config.unet_activation,
            name="features",
        )(value)
    prob = layers.Conv2D(1, 1, activation="sigmoid", name="prob")(value)
    dist = layers.Conv2D(config.n_rays, 1, name="dist")(value)
    return keras.Model(image, [prob, dist])


def _unet(value: Any, config: StardistConfig) -> Any:
    from keras import layers

    def convolved(value: Any, filters: int, name: str, activation: str = config.unet_activation) -> Any:
        inner = None if config.unet_batch_norm else activation
        value = layers.Conv2D(
            filters,
            config.unet_kernel_size,
            padding="same",
            activation=inner,
            name=f"{config.unet_prefix}{name}",
        )(value)
        if config.unet_batch_norm:
            value = layers.Activation(activation)(layers.BatchNormalization()(value))
        return value

    depth, count, base = config.unet_n_depth, config.unet_n_conv_per_depth, config.unet_n_filter_base
    skips = []
    for level in range(depth):
        for index in range(count):
            value = convolved(value, base * 2**level, f"down_level_{level}_no_{index}")
        skips.append(value)
        value = layers.MaxPooling2D(2)(value)
    for index in range(count - 1):
        value = convolved(value, base * 2**depth, f"middle_{index}")
    value = convolved(value, base * 2 ** (depth - 1), f"middle_{count}")
    for level in reversed(range(depth)):
        value = layers.Concatenate()([layers.UpSampling2D(2)(value), skips[level]])
        for index in range(count - 1):
            value = convolved(value, base * 2**level, f"up_level_{level}_no_{index}")
        last = config.unet_activation if level else config.unet_last_activation
        value = convolved(value, base * 2 ** max(0, level - 1), f"up_level_{level}_no_{count}", last)
    return value


def _weights_file(folder: Path) -> Path:
    """As StarDist chooses: the best weights, or else the newest name."""
    found = sorted(folder.glob("*.h5"))
    return next((path for path in found if "best" in path.name), found[-1])


def _load(network: Any, path: Path, prefix: str) -> None:
    """Give the layers of `network` the weights of the Keras 2 file `path`."""
    import h5py

    with h5py.File(path, "r") as file:
        stored = dict(_stored(file.get("model_weights", file)))
    unnamed = _in_order([name for name in stored if _NUMBERED.fullmatch(name)])
    layers = [layer for layer in network.layers if layer.weights]
    for layer in _creation_order(layers):
        kind = _NUMBERED.fullmatch(layer.name)
        name = layer.name if kind is None else next(unnamed[kind[1]], layer.name)
        values = stored.pop(name, None)
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if values is None or [value.shape for value in values] != wanted:
            found = "no such layer" if values is None else [value.shape for value in values]
            raise ConversionError(
                f"The weights do not fit config.json: its layer {name[:60]!r} has the shapes {wanted}, the "
                f"weights have {found}: copy both files of one model."
            )
        layer.set_weights(values)
    left = [name for name in stored if not _UNUSED.fullmatch(name.removeprefix(prefix))]
    if left:
        raise ConversionError(
            f"The weights do not fit config.json: it has no layer {left[0][:60]!r}: copy both files of one model."
        )


def _creation_order(layers: Sequence[Any]) -> list[Any]:
    """Layers without a name are made in the order of their numbers."""
    return sorted(layers, key=lambda layer: _number(layer.name))


def _number(name: str) -> int:
    found = _NUMBERED.fullmatch(name)
    return -1 if found is None else int(found[2] or 0)


def _in_order(names: Sequence[str]) -> Mapping[str, Iterator[str]]:
    """Names of numbered layers by their kind, in the order of their numbers."""
    kinds = ("conv2d", "batch_normalization")
    return {
        kind: iter(sorted((name for name in names if _NUMBERED.fullmatch(name)[1] == kind), key=_number))  # type: ignore[index]
        for kind in kinds
    }


def _stored(group: h5py.Group) -> Iterator[tuple[str, list[npt.NDArray[np.float32]]]]:
    """Layers with weights, and these in Keras's order."""
    if "layer_names" not in group.attrs:
        raise ConversionError(
            "The weights are not in the format that StarDist saves (Keras 2, HDF5): save them with StarDist again."
        )
    for name in map(_text, group.attrs["layer_names"]):
        weights = [_text(each) for each in group[name].attrs["weight_names"]]
        if weights:
            yield name, [np.asarray(group[name][each], np.float32) for each in weights]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _exported(network: Any, image: InputSpec, outputs: Sequence[OutputSpec], divisor: float) -> onnx.ModelProto:
    import tensorflow as tf

    shape = [None, None, None, image.channel_count]
    signature = [tf.TensorSpec(shape, tf.as_dtype(image.dtype), name="pixels")]

    def answer(image: Any) -> tuple[Any, Any]:
        prob, dist = network(tf.cast(image, tf.float32) / divisor, training=False)
        return prob, dist

    raw = onnx_from_function(tf.function(answer, input_signature=signature), signature, opset=OPSET)
    return with_stated_names(raw, outputs)


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        with path.open("rb") as file:
            return kind.model_validate_json(file.read(_MAX_JSON_BYTES))
    except OSError as error:
        raise ConversionError(f"{path.name} cannot be read: copy the folder again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConversionError(
            f"{path.name} is not that of a StarDist model that can be served ({where}: {first['msg']}): convert a "
            "2D model with a U-Net."
        ) from error
