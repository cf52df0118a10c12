"""The receptive field of a segmenter, as stated and as measured, and its fit with the halo."""

from __future__ import annotations

import numpy as np

from slidecascade.cells.tile import EXACT_PX
from slidecascade.errors import ModelFailedError
from slidecascade.heads.head import ObjectHead
from slidecascade.heads.table import find
from slidecascade.models.spec import SegmenterSpec
from slidecascade.models.tensors import Tensors
from slidecascade.runners.runner import Runner

CHANGED_PX = 64
"""Minimum side of the square of pixels that is changed to measure the receptive field."""


def described(spec: SegmenterSpec) -> str:
    """The stated receptive field and whether the halo is wide enough, in words."""
    field_px = spec.receptive_field_px
    if field_px is None:
        return "no receptive field is stated: convert the model again to state it"
    if field_px == "unbounded":
        return "the receptive field is the whole image, which does not fit any halo: outlines may differ by tile"
    return f"the receptive field of {field_px} px {_fit(spec, field_px)}"


def verified(spec: SegmenterSpec, runner: Runner, inputs: Tensors, outputs: Tensors) -> str:
    """As `described`, with the receptive field measured on `inputs`, for which the network returned `outputs`.

    A square in the middle of the image is replaced by its inverse; outputs that change depend on it. The result is
    a lower bound, because rounding hides small changes.

    Raises:
        ModelFailedError: when the measured field is larger than the stated one.
    """
    reach_px = _measured_reach_px(spec, runner, inputs, outputs)
    if reach_px is None:
        measured_px, measured = None, "measured: the whole image"
    else:
        measured_px = 2 * reach_px + 1
        measured = f"measured: at least {measured_px} px"
    stated = spec.receptive_field_px
    if isinstance(stated, int) and (measured_px is None or measured_px > stated):
        raise ModelFailedError(
            f"Model {spec.name!r} states a receptive field of {stated} px, but its outputs depend on more pixels "
            f"({measured}): convert it again."
        )
    if stated is None and measured_px is not None:
        fit = _fit(spec, measured_px)
        return f"no receptive field is stated; the one of at least {measured_px} px (measured) {fit}"
    return f"{described(spec)} ({measured})"


def _fit(spec: SegmenterSpec, field_px: int) -> str:
    # Objects are decoded beyond the core of a tile, masks in the core only.
    margin_px = EXACT_PX if isinstance(find(spec.head), ObjectHead) else 0
    needed_px = (field_px - 1) // 2 + margin_px
    if needed_px <= spec.halo_px:
        return f"fits the halo of {spec.halo_px} px"
    return (
        f"does not fit the halo of {spec.halo_px} px: outlines may differ by tile; set it to at least {needed_px}"
    )


def _measured_reach_px(spec: SegmenterSpec, runner: Runner, inputs: Tensors, outputs: Tensors) -> int | None:
    """Distance from the changed square to the farthest changed output, in pixels; None: the whole image."""
    image, array = spec.input, inputs[spec.input.name]
    height, width = (array.shape[image.layout.index(axis)] for axis in "HW")
    side = -(-CHANGED_PX // image.multiple_of) * image.multiple_of
    top, left = ((size - side) // 2 // image.multiple_of * image.multiple_of for size in (height, width))
    square = tuple(
        {"H": slice(top, top + side), "W": slice(left, left + side)}.get(axis, slice(None))
        for axis in image.layout
    )
    changed = array.copy()
    changed[square] = array.max() - array[square] + array.min()
    found = runner.run(spec.name, {**inputs, image.name: changed})
    reach_px = 0
    for output in spec.outputs:
        if not {"H", "W"} <= set(output.layout):
            continue
        differ = outputs[output.name] != found[output.name]
        for axis, start, size in (("H", top, height), ("W", left, width)):
            others = tuple(place for place, name in enumerate(output.layout) if name != axis)
            rows = np.flatnonzero(differ.any(axis=others))
            if not len(rows):
                continue
            first, last = int(rows[0]) * output.stride, (int(rows[-1]) + 1) * output.stride
            if first == 0 and last >= size:
                return None
            reach_px = max(reach_px, start - first, last - start - side)
    return reach_px
