"""Detections of two computations of one network side by side, of which each finds a number of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.models.tensors import Tensors

_NEAR_PX: Final = 0.5


@dataclass(frozen=True, slots=True)
class Paired:
    """Outputs of both whose rows are one detection each, and how many there were.

    Attributes:
        first, second: by output, ``(P, ...)``.
        counts: of detections of the first and of the second.
    """

    first: Tensors
    second: Tensors
    counts: tuple[int, int]


def paired(first: Tensors, second: Tensors) -> Paired:
    """Detections of one label that are each other's nearest, all sides of their boxes within half a pixel.

    Rounding changes which of two nearly equal boxes is kept, so that single detections may have no partner.
    """
    pairs: list[tuple[int, int, int]] = []
    for image in range(len(first["scores"])):
        mine, theirs = (np.flatnonzero(each["scores"][image] > 0) for each in (first, second))
        if not (len(mine) and len(theirs)):
            continue
        distances = _distances(first, second, image, mine, theirs)
        nearest, back = distances.argmin(axis=1), distances.argmin(axis=0)
        rows = np.arange(len(mine))
        mutual = (back[nearest] == rows) & (distances[rows, nearest] <= _NEAR_PX)
        pairs += [(image, int(mine[row]), int(theirs[nearest[row]])) for row in rows[mutual]]
    images, ours, others = np.array(pairs, np.intp).reshape(-1, 3).T
    return Paired(
        {name: values[images, ours] for name, values in first.items()},
        {name: values[images, others] for name, values in second.items()},
        (int((first["scores"] > 0).sum()), int((second["scores"] > 0).sum())),
    )


def _distances(
    first: Tensors, second: Tensors, image: int, mine: NDArray[np.intp], theirs: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The largest distance of two boxes' sides in pixels; infinite for other labels."""
    boxes, others = first["boxes"][image, mine], second["boxes"][image, theirs]
    found = np.abs(boxes[:, None].astype(np.float64) - others[None]).max(axis=-1)
    is_one = first["labels"][image, mine][:, None] == second["labels"][image, theirs][None]
    return np.where(is_one, found, np.inf)
