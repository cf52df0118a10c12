"""Temperature, calibration error and floor, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from slidecascade_training.calibration import calibration_of, floor_for, temperature


def test_the_temperature_undoes_what_sharpened_the_logits() -> None:
    """Labels drawn from known probabilities; logits thrice too large are divided by three."""
    generator = np.random.default_rng(0)
    honest = generator.normal(0, 1.5, (20_000, 3))
    draws = generator.random((20_000, 1))
    labels = (draws > softmax(honest, axis=1).cumsum(axis=1)).sum(axis=1)
    assert temperature(3.0 * honest, labels) == pytest.approx(3.0, rel=0.06)
    assert temperature(honest, labels) == pytest.approx(1.0, rel=0.06)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Ten answers at 0.8 of which six are right are off by 0.2; ten at 0.6 of which six are right are not."""
    labels = np.array([0] * 6 + [1] * 4)
    sure, honest = np.tile([0.8, 0.1, 0.1], (10, 1)), np.tile([0.6, 0.3, 0.1], (10, 1))
    assert calibration_of(sure, labels).error == pytest.approx(0.2)
    assert calibration_of(honest, labels).error == pytest.approx(0.0, abs=1e-12)


def test_the_floor_leaves_at_most_two_in_a_hundred_out() -> None:
    """With two winners of 0.52 among a hundred the floor may rise to 0.75; with three it stops at 0.5."""
    winners = np.full(100, 0.77)
    winners[:2] = 0.52
    assert floor_for(np.stack([winners, 1 - winners], axis=1)) == 0.75
    winners[2] = 0.52
    assert floor_for(np.stack([winners, 1 - winners], axis=1)) == 0.5
