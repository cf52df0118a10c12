"""Losses and scores of segmenters, in operations of any backend."""

from __future__ import annotations

from typing import Any

from slidecascade_training.fit import SCORE


def overlap_loss(truth: Any, predicted: Any) -> Any:
    """Cross-entropy plus 1 - Dice, for each image ``(N,)``: the loss of the reference U-Net, on both maps."""
    from keras import ops

    clipped = ops.clip(predicted, 1e-6, 1.0 - 1e-6)
    entropy = -truth * ops.log(clipped) - (1.0 - truth) * ops.log(1.0 - clipped)
    axes = (1, 2)
    overlap = ops.sum(truth * predicted, axes)
    dice = (2.0 * overlap + 1.0) / (ops.sum(truth, axes) + ops.sum(predicted, axes) + 1.0)
    return ops.mean(entropy, (1, 2, 3)) + 1.0 - ops.mean(dice, -1)


def soft_dice(truth: Any, predicted: Any) -> Any:
    """Dice of the foreground at a threshold of one half, for each image ``(N,)``."""
    from keras import ops

    found = ops.cast(predicted[..., 0] >= 0.5, "float32")
    asked = ops.cast(truth[..., 0] >= 0.5, "float32")
    overlap = ops.sum(found * asked, (1, 2))
    return (2.0 * overlap + 1.0) / (ops.sum(found, (1, 2)) + ops.sum(asked, (1, 2)) + 1.0)


soft_dice.__name__ = SCORE  # what Keras calls the metric by
