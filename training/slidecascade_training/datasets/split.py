"""Selects the slides for validation; whole slides, because cells of one slide are similar."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from slidecascade.errors import UnusableDataError

Split = Literal["train", "validate"]
TRAIN: Final[Split] = "train"
VALIDATE: Final[Split] = "validate"


def split_by_slide(counts: Mapping[str, Sequence[int]], *, share: float, seed: int = 0) -> Mapping[str, Split]:
    """The split of each slide, so that about `share` of every class is kept for validation.

    Slides are visited in an order that depends on `seed` and their names only; each is assigned to validation if
    that brings the classes' shares closer to `share`. Both splits have at least one slide, and the result is
    deterministic.

    Args:
        counts: examples of each class, by slide.
        share: part kept for validation, 0 to 1; 0: everything is for training.

    Raises:
        UnusableDataError: one slide only, and a `share` above 0.
    """
    require_slides(len(counts), share=share)
    if share == 0:
        return dict.fromkeys(counts, TRAIN)
    order = sorted(counts, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    table = np.array([counts[name] for name in order], np.float64)
    total = np.maximum(table.sum(axis=0), 1)
    chosen = np.zeros(len(order), np.bool_)
    while True:
        gains = [_distance(table, total, chosen, row, share) for row in range(len(order))]
        best = int(np.argmin(gains))
        last_one = chosen.sum() + 1 == len(order)
        if last_one or (chosen.any() and gains[best] >= _distance(table, total, chosen, None, share)):
            break
        chosen[best] = True
    return {name: VALIDATE if kept else TRAIN for name, kept in zip(order, chosen, strict=True)}


def require_slides(count: int, *, share: float) -> None:
    """Check that there are slides for both validation and training.

    Raises:
        UnusableDataError: one slide only, and a `share` above 0.
    """
    if share and count < 2:
        raise UnusableDataError(
            "All examples come from one slide, so none can be kept for validation by slide: annotate another "
            "slide, or train without figures with --no-validation."
        )


def _distance(
    table: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    chosen: npt.NDArray[np.bool_],
    row: int | None,
    share: float,
) -> float:
    """Distance of the classes' shares from `share` if `row` is selected too."""
    if row is not None and chosen[row]:
        return float("inf")
    kept = table[chosen].sum(axis=0) + (0 if row is None else table[row])
    return float((((kept / total) - share) ** 2).sum())
