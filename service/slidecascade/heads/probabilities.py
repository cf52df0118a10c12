"""Probabilities of classes: the heads ``softmax`` and ``sigmoid`` of classifiers.

The probabilities of a ``softmax`` sum to one, those of a ``sigmoid`` are each their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from slidecascade.heads.head import ClassifierOptions, ProbabilityHead
from slidecascade.models.tensors import OutputSpec, Tensors

TOLERANCE: Final = 1e-3
SUM_TOLERANCE: Final = 1e-2
"""How far numbers of float16 graphs may lie beside probabilities, and their sum beside one."""


def outputs(classes: Sequence[str]) -> tuple[OutputSpec, ...]:
    """One vector per image, a probability for each of `classes`."""
    return (
        OutputSpec(
            name="probabilities",
            dtype="float32",
            layout="NC",
            shape=("batch", len(classes)),
            channels=tuple(classes),
            range=(0, 1),
            meaning="probability",
        ),
    )


class _Vector(ProbabilityHead):
    """The network's own vector of probabilities."""

    options = ClassifierOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        return outputs(classes)

    def probabilities(self, outputs: Tensors) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = outputs["probabilities"]
        return found

    def mismatch(self, probabilities: npt.NDArray[np.float32]) -> bool:
        return bool((probabilities < -TOLERANCE).any() or (probabilities > 1 + TOLERANCE).any())


class _Softmax(_Vector):
    name: ClassVar[str] = "softmax"

    def mismatch(self, probabilities: npt.NDArray[np.float32]) -> bool:
        sums = probabilities.sum(axis=1)
        return super().mismatch(probabilities) or bool(np.abs(sums - 1).max() > SUM_TOLERANCE)


class _Sigmoid(_Vector):
    name: ClassVar[str] = "sigmoid"


SOFTMAX: Final = _Softmax()
SIGMOID: Final = _Sigmoid()
