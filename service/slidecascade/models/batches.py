"""A batch: arrays by the names of a network's tensors, images along the first axis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import ModelFailedError
from slidecascade.models.tensors import Tensors


def batch_of(inputs: Tensors) -> int:
    """The batch size of `inputs`.

    Raises:
        ModelFailedError: when batch sizes differ, or an input has no batch axis.
    """
    counts = {len(array) for array in inputs.values() if array.ndim}
    if len(counts) != 1 or any(not array.ndim for array in inputs.values()):
        found = ", ".join(f"{name!r} {array.shape}" for name, array in inputs.items()) or "none"
        raise ModelFailedError(
            f"The inputs {found} differ in batch size: use the same number of images for all of them."
        )
    return counts.pop()


def image_bytes(*tensors: Tensors) -> int:
    """Bytes per image of the largest of `tensors`, such as all inputs and all outputs; at least 1."""
    return max(1, *(sum(array[:1].nbytes for array in each.values()) for each in tensors))


def part_of(tensors: Tensors, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Images ``start:stop`` of every tensor, as views."""
    return {name: array[start:stop] for name, array in tensors.items()}


def joined(parts: Iterable[Tensors]) -> dict[str, NDArray[Any]]:
    """`parts` of one network's tensors concatenated along the batch axis; a single part is not copied."""
    found = list(parts)
    if len(found) == 1:
        return dict(found[0])
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def require_finite(model: str, outputs: Tensors) -> None:
    """Raises ModelFailedError when an output of `model` is NaN or infinite."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFailedError(
                f"Model {model!r} returned NaN or infinite values in {name!r}: verify the model."
            )
