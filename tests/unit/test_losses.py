"""Losses of semantic networks, against their definitions in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("keras", reason="the [train] extra is not installed")

from slidecascade_training.recipes.losses import LOSSES

RNG = np.random.default_rng(5)
TRUTH = (RNG.random((3, 6, 5, 2)) < 0.3).astype(np.float32)
PREDICTED = RNG.uniform(0.02, 0.98, TRUTH.shape).astype(np.float32)


def loss(
    name: str, truth: NDArray[np.float32] = TRUTH, predicted: NDArray[np.float32] = PREDICTED
) -> NDArray[np.float64]:
    from keras import ops

    return np.asarray(
        ops.convert_to_numpy(LOSSES[name](ops.convert_to_tensor(truth), ops.convert_to_tensor(predicted)))
    )


def slow_lovasz(truth: NDArray[np.float32], predicted: NDArray[np.float32]) -> float:
    """Of one map: errors times the growth of the Jaccard loss as pixels are added, the worst first."""
    logits = np.log(predicted / (1 - predicted)).ravel()
    labels = truth.ravel()
    errors = 1 - logits * (2 * labels - 1)
    order = np.argsort(-errors, kind="stable")
    total, before = 0.0, 0.0
    missed: set[int] = set()
    for pixel in order.tolist():
        missed.add(pixel)
        wrong = np.zeros(len(labels), np.bool_)
        wrong[list(missed)] = True
        found = np.where(wrong, 1 - labels, labels)
        union = np.maximum(found, labels).sum()
        jaccard = 1 - np.minimum(found, labels).sum() / union if union else 0.0
        total += max(0.0, errors[pixel]) * (jaccard - before)
        before = jaccard
    return total


def test_losses_are_their_definitions() -> None:
    """For each image by itself."""
    entropy = -(TRUTH * np.log(PREDICTED) + (1 - TRUTH) * np.log(1 - PREDICTED))
    right = TRUTH * PREDICTED + (1 - TRUTH) * (1 - PREDICTED)
    axes = (1, 2, 3)
    overlap = 1 - (2 * (TRUTH * PREDICTED).sum(axes) + 1) / (TRUTH.sum(axes) + PREDICTED.sum(axes) + 1)
    np.testing.assert_allclose(loss("bce"), entropy.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(loss("dice"), overlap, rtol=1e-5)
    np.testing.assert_allclose(loss("bce-dice"), entropy.mean(axes) + overlap, rtol=1e-5)
    np.testing.assert_allclose(loss("focal"), (-((1 - right) ** 2) * np.log(right)).mean(axes), rtol=1e-4)
    hinge = [
        np.mean([slow_lovasz(TRUTH[row, ..., map_], PREDICTED[row, ..., map_]) for map_ in (0, 1)])
        for row in range(3)
    ]
    other = [
        np.mean([slow_lovasz(1 - TRUTH[row, ..., map_], 1 - PREDICTED[row, ..., map_]) for map_ in (0, 1)])
        for row in range(3)
    ]
    np.testing.assert_allclose(loss("lovasz"), hinge, rtol=1e-4)
    np.testing.assert_allclose(loss("symmetric-lovasz"), np.add(hinge, other) / 2, rtol=1e-4)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_better_answer_has_a_lower_loss(name: str) -> None:
    """Also where there is no area at all."""
    for truth in (TRUTH, TRUTH * 0):
        good, bad = np.clip(truth, 0.02, 0.98), np.clip(1 - truth, 0.02, 0.98)
        assert (loss(name, truth, good) < loss(name, truth, bad)).all()
        assert np.isfinite(loss(name, truth, bad)).all()
