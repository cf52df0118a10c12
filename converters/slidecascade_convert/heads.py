"""What a head wants from a network's output, worked out with numpy: the yardstick for the served graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.original import GREY_HALF, GREY_UNIT, GREY_WEIGHTS, Facts
from slidecascade_convert.request import ConversionRequest

Floats = npt.NDArray[np.float32]


def network_input(images: npt.NDArray[np.uint8], request: ConversionRequest, facts: Facts) -> npt.NDArray[Any]:
    """What the original is given for uint8 RGB `images` ``(N, H, W, 3)``."""
    ordered = images[..., ::-1] if request.bgr else images
    if facts.is_grey:
        weighted = (ordered * np.array(GREY_WEIGHTS, np.int32)).sum(axis=-1, keepdims=True)
        ordered = ((weighted + GREY_HALF) // GREY_UNIT).astype(np.uint8)
    pixels = ordered if facts.takes_bytes else request.normalisation.apply(ordered)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if facts.layout == "NCHW" else pixels)


def served_channels(
    output: npt.NDArray[Any], images: npt.NDArray[np.uint8], request: ConversionRequest, facts: Facts
) -> tuple[int, ...]:
    """The output channels the head serves.

    Raises:
        ConversionError: when the output's shape contradicts the request.
    """
    if request.task == "segment":
        return _map_channels(output, images, request, facts)
    units = int(np.prod(output.shape[1:]))
    if output.ndim not in (2, 4) or max(output.shape[1:]) != units:
        raise ConversionError(
            f"The network answers with the shape {output.shape[1:]} per image, a classifier with one number per "
            "class: convert it with --task segment."
        )
    if units == 1 and request.head == "sigmoid" and len(request.classes) == 2:
        return (0,)
    if units != len(request.classes):
        raise ConversionError(
            f"The network has {units} outputs and --classes names {len(request.classes)}: name every output in "
            "order (for one sigmoid unit: the class at 0, then the class at 1)."
        )
    return tuple(range(units))


def _map_channels(
    output: npt.NDArray[Any], images: npt.NDArray[np.uint8], request: ConversionRequest, facts: Facts
) -> tuple[int, ...]:
    if output.ndim != 4:
        raise ConversionError(
            f"The network answers with the shape {output.shape[1:]} per image, a segmenter with maps: convert it "
            "with --task classify."
        )
    last = _channels_last(output, facts)
    if last.shape[1:3] != images.shape[1:3]:
        raise ConversionError(
            f"The network's maps have {last.shape[2]} x {last.shape[1]} px for an image of {images.shape[2]} x "
            f"{images.shape[1]}: only maps of the image's size are served."
        )
    count = last.shape[3]
    if not request.channels and count > request.maps:
        wanted = "which is the foreground, --channels 1"
        if request.head == "unet":
            wanted = "which are foreground and interior, --channels 0,1"
        raise ConversionError(f"The network has {count} output channels: state {wanted}.")
    chosen = request.channels or tuple(range(count))
    if max(chosen) >= count or min(chosen) < 0:
        raise ConversionError(f"The network has {count} output channels, counted from 0: correct --channels.")
    return (chosen[0],) if request.head == "semantic" else (chosen[0], chosen[-1])


def probabilities(output: Floats, request: ConversionRequest, facts: Facts, channels: tuple[int, ...]) -> Floats:
    """What the head should answer for the original's `output`: float32 ``(N, H, W, maps)`` or ``(N, C)``.

    Raises:
        ConversionError: when the values are no probabilities.
    """
    if not np.isfinite(output).all():
        raise ConversionError(
            "The network answers with values that are not numbers: its weights are damaged, or --scale or --mean "
            "differs from its training."
        )
    values = _channels_last(output, facts) if request.task == "segment" else output.reshape(len(output), -1)
    if request.logits:
        values = _softmax(values) if request.head == "softmax" else 1 / (1 + np.exp(-values.astype(np.float64)))
    if request.task == "segment":
        values = values[..., list(channels)]
    elif len(channels) == 1:
        values = np.concatenate([1 - values, values], axis=1)
    _check_probabilities(values, request)
    return values.astype(np.float32)


def _check_probabilities(values: npt.NDArray[Any], request: ConversionRequest) -> None:
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ConversionError(
            f"The network answers from {low:.3g} to {high:.3g}, which are no probabilities: add --logits to apply "
            f"the {'sigmoid' if request.task == 'segment' else request.head} here."
        )
    if request.head == "softmax" and float(np.abs(values.sum(axis=1) - 1).max()) > 1e-3:
        raise ConversionError(
            "The network's probabilities do not sum to one: convert it with --head sigmoid, or add --logits."
        )


def _channels_last(output: npt.NDArray[Any], facts: Facts) -> npt.NDArray[Any]:
    return output.transpose(0, 2, 3, 1) if facts.layout == "NCHW" else output


def _softmax(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    powers = np.exp(values.astype(np.float64) - values.max(axis=1, keepdims=True))
    normalised: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return normalised
