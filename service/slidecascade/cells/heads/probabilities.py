"""Probabilities of classes: what the heads of classifiers, ``softmax`` and ``sigmoid``, want of a network."""

from collections.abc import Sequence

from slidecascade.models.tensors import OutputSpec


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
