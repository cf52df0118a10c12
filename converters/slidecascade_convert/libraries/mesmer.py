"""SavedModels with the outputs of Mesmer (Greenwald et al. 2022): inner distance and pixelwise maps.

Whole cells come first, then nuclei: an inner distance of one channel and a pixelwise map of three (edge, interior,
background) of each. They are recognised by their order and channels, whatever the SavedModel calls them. Mesmer's
network looks at 256 x 256 px; a network of one size is run on windows.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade.heads.mesmer import MESMER, Compartment, MesmerOptions
from slidecascade.models.tensors import OutputSpec, Tensors
from slidecascade_convert.libraries.graph import with_stated_names
from slidecascade_convert.libraries.network import LibraryNetwork, channel_image, channels_of, mpp_of
from slidecascade_convert.library_request import LibraryRequest
from slidecascade_convert.original import Facts
from slidecascade_convert.saved_model import SERVING, load_checked
from slidecascade_convert.tensorflow_graph import OPSET, onnx_from_function
from slidecascade_convert.windows import Windowed, Windows

_MPP: Final = 0.5
_COMPARTMENTS: Final[tuple[Compartment, ...]] = ("whole-cell", "nuclear")
_CHANNELS: Final = ("nuclear", "membrane")
_FREE_MULTIPLE_PX: Final = 128
_MAPS: Final = (1, 3)
_SCALING: Final = (
    "Mesmer's own program equalises the histogram of each image first; here channels are scaled by percentiles of "
    "the slide."
)


def open_mesmer(request: LibraryRequest) -> LibraryNetwork:
    """The serving function of the SavedModel in the request's source.

    Raises:
        ConversionError: it is damaged, runs anything when it is loaded, or has other outputs than Mesmer.
    """
    import tensorflow as tf

    loaded = load_checked(request.source)
    function = loaded.signatures[SERVING]
    argument, spec, keys = _interface(function)
    channels = channels_of(request, most=len(_CHANNELS), default=_CHANNELS)
    if len(channels) != len(_CHANNELS):
        raise ConversionError("The network takes two channels, a nuclear one and a membrane's: name both.")
    _, height_px, width_px, _ = spec.shape
    windows = None if height_px is None or width_px is None else Windows(height_px, width_px)
    multiple_of = _FREE_MULTIPLE_PX if windows is None else windows.step_px
    outputs = _outputs(request.classes, len(keys) // len(_MAPS))

    def answer(pixels: Any) -> list[Any]:
        # `loaded` holds the variables.
        found = loaded.signatures[SERVING](**{argument: tf.cast(pixels, spec.dtype)})
        return [found[key] for key in keys]

    def predict(images: npt.NDArray[Any]) -> Tensors:
        if windows is None:
            values = [np.asarray(value) for value in answer(images)]
        else:
            values = [Windowed(_OneMap(answer, index), windows).predict(images) for index in range(len(keys))]
        return {output.name: value for output, value in zip(outputs, values, strict=True)}

    def export() -> Any:
        signature = [tf.TensorSpec(spec.shape, tf.float32, name="pixels")]
        raw = onnx_from_function(tf.function(answer, input_signature=signature), signature, opset=OPSET)
        return with_stated_names(raw, outputs, windows)

    size = "any size" if windows is None else f"{width_px} x {height_px} px, on windows of which it runs"
    return LibraryNetwork(
        title="Mesmer's outputs",
        head=MESMER.name,
        image=channel_image(channels, layout="NHWC", multiple_of=multiple_of),
        outputs=outputs,
        options=MesmerOptions(compartment="whole-cell", foreground=0.2, maximum=0.075).model_dump(
            exclude={"min_area_um2"}
        ),
        mpp=mpp_of(request, otherwise=_MPP),
        predict=predict,
        export=export,
        versions={name: metadata.version(name) for name in ("tensorflow", "tf2onnx")},
        notes=(
            f"The network looks at {size}.",
            _SCALING,
            "Whole cells are found; for nuclei state `compartment: nuclear` and `maximum: 0.1` in the options.",
        ),
    )


class _OneMap:
    """One of the outputs as a network of its own, for the comparison on windows."""

    facts = Facts(layout="NHWC", height_px=None, width_px=None)

    def __init__(self, answer: Any, index: int) -> None:
        self._answer, self._index = answer, index

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(self._answer(pixels)[self._index], np.float32)

    def export(self) -> Any:
        raise NotImplementedError


def _interface(function: Any) -> tuple[str, Any, list[str]]:
    """The input's name and shape, and the outputs' names in Mesmer's order."""
    inputs = function.structured_input_signature[1]
    outputs = function.structured_outputs
    keys = sorted(outputs, key=_natural)
    shapes = [outputs[key].shape for key in keys]
    maps = [shape[-1] if shape.rank == len("NHWC") else None for shape in shapes]
    wanted = list(_MAPS) * (len(keys) // len(_MAPS))
    if len(inputs) != 1 or not keys or len(keys) > len(_MAPS) * len(_COMPARTMENTS) or maps != wanted:
        raise ConversionError(
            f"The SavedModel's outputs have {', '.join(map(str, maps)) or 'no'} channels, and Mesmer's have 1, 3, "
            "1 and 3: give Mesmer's, or state --task and --head."
        )
    ((argument, spec),) = inputs.items()
    if spec.shape.rank != len("NHWC") or spec.shape[0] is not None or spec.shape[-1] != len(_CHANNELS):
        raise ConversionError(
            f"The SavedModel's input has the shape {tuple(spec.shape)}: Mesmer's is a dynamic batch of images of "
            "two channels, which come last."
        )
    return argument, spec, keys


def _outputs(classes: tuple[str, ...], compartments: int) -> tuple[OutputSpec, ...]:
    return tuple(
        output
        for compartment in _COMPARTMENTS[:compartments]
        for output in MESMER.outputs_with(classes, MesmerOptions(compartment=compartment))
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Names in the order of the numbers in them; whole cells before nuclei where they are named so."""
    parts = re.findall(r"\d+|\D+", name.replace("whole_cell", "0"))
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
