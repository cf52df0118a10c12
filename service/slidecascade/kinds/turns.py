"""Test-time averaging over turns and mirror images: the dihedral group of the square.

A network answers each of the eight views of an image; the answers are turned back and averaged. Each view is a
run with the batch of the original: in larger ones the last bit of an output could depend on the size of tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError
from slidecascade.models.spec import AnySpec
from slidecascade.models.tensors import OutputSpec, Tensors
from slidecascade.pipelines.spec import Pipeline
from slidecascade.wire.fields import Averaging

_VIEWS: Final = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
_MEANING: Final = "probability"


def is_averaged(model: AnySpec, tta: Averaging) -> bool:
    """Whether answers of `model` are averaged over turned images."""
    return tta == "d4" or (tta == "d4-classifiers" and model.task == "classify")


def require_turnable(pipeline: Pipeline, tta: Averaging) -> None:
    """Check that averages over turns make sense for the networks of `pipeline` that are averaged.

    Raises:
        InvalidRequestError: an output is more than a probability for each pixel, object or image, or no network
            is averaged.
    """
    models = [model for model in pipeline.models if is_averaged(model, tta)]
    if not models and tta != "none":
        message = f"The pipeline {pipeline.name!r} has no classifiers: use `options.tta` d4, or leave it out."
        raise InvalidRequestError(message, errors=(("options.tta", message),))
    for model in models:
        for output in model.outputs:
            if output.meaning != _MEANING or "K" in output.layout:
                message = (
                    f"The output {output.name!r} ({output.meaning}) of {model.name!r} cannot be averaged over "
                    "turned images, because its values have a direction or an order: leave out `options.tta` for "
                    f"the pipeline {pipeline.name!r}."
                )
                raise InvalidRequestError(message, errors=(("options.tta", message),))


def averaged(
    run: Callable[[NDArray[Any]], Tensors], images: NDArray[Any], outputs: tuple[OutputSpec, ...]
) -> Tensors:
    """The mean of what `run` returns for the eight views of ``(N, H, W, C)`` images, turned back, by output.

    Values of whole-number types are rounded to the nearest one.
    """
    sums: dict[str, NDArray[Any]] = {}
    kinds: dict[str, np.dtype[Any]] = {}
    for turns, mirrored in _VIEWS:
        seen = np.rot90(images[:, :, ::-1] if mirrored else images, turns, axes=(1, 2))
        found = run(np.ascontiguousarray(seen))
        for output in outputs:
            values = found[output.name]
            kinds[output.name] = values.dtype
            back = _turned_back(values, output.layout, turns, mirrored=mirrored).astype(np.float32)
            sums[output.name] = back if output.name not in sums else sums[output.name] + back
    return {name: _of_kind(total / np.float32(len(_VIEWS)), kinds[name]) for name, total in sums.items()}


def _turned_back(values: NDArray[Any], layout: str, turns: int, *, mirrored: bool) -> NDArray[Any]:
    if "H" not in layout:
        return values
    down, across = layout.index("H"), layout.index("W")
    back = np.rot90(values, -turns, axes=(down, across))
    return np.flip(back, axis=across) if mirrored else back


def _of_kind(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    rounded = np.rint(values) if np.issubdtype(kind, np.integer) else values
    return np.ascontiguousarray(rounded.astype(kind))
