"""Losses and scores of segmenters, in operations of any backend.

The losses by name (`LOSSES`) take truth and probabilities ``(N, H, W, C)``, 0 to 1, and give a loss for each image
``(N,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

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


_LEAST: Final = 1e-6
_MAPS: Final = (1, 2, 3)


def cross_entropy(truth: Any, predicted: Any) -> Any:
    """Binary cross-entropy, the mean over pixels."""
    from keras import ops

    clipped = ops.clip(predicted, _LEAST, 1.0 - _LEAST)
    return ops.mean(-truth * ops.log(clipped) - (1.0 - truth) * ops.log(1.0 - clipped), _MAPS)


def dice(truth: Any, predicted: Any) -> Any:
    """1 - soft Dice (Milletari et al. 2016), with 1 added to both parts for images without areas."""
    from keras import ops

    overlap = ops.sum(truth * predicted, _MAPS)
    return 1.0 - (2.0 * overlap + 1.0) / (ops.sum(truth, _MAPS) + ops.sum(predicted, _MAPS) + 1.0)


def focal(truth: Any, predicted: Any, gamma: float = 2.0) -> Any:
    """Cross-entropy times ``(1 - p) ** gamma`` of the true class (Lin et al. 2017), without weights of classes."""
    from keras import ops

    clipped = ops.clip(predicted, _LEAST, 1.0 - _LEAST)
    right = truth * clipped + (1.0 - truth) * (1.0 - clipped)
    return ops.mean(-((1.0 - right) ** gamma) * ops.log(right), _MAPS)


def lovasz(truth: Any, predicted: Any) -> Any:
    """The Lovasz hinge of the Jaccard loss (Berman et al. 2018), on logits, the mean over channels."""
    from keras import ops

    clipped = ops.clip(predicted, _LEAST, 1.0 - _LEAST)
    logits = ops.log(clipped) - ops.log(1.0 - clipped)
    count, channels = ops.shape(truth)[0], truth.shape[-1]

    def flat(maps: Any) -> Any:
        return ops.reshape(ops.transpose(maps, (0, 3, 1, 2)), (count, channels, -1))

    labels = flat(truth)
    errors = 1.0 - flat(logits) * (2.0 * labels - 1.0)
    order = ops.argsort(-errors, axis=-1)
    errors, labels = ops.take_along_axis(errors, order, -1), ops.take_along_axis(labels, order, -1)
    total = ops.sum(labels, -1, keepdims=True)
    overlap = total - ops.cumsum(labels, -1)
    jaccard = 1.0 - overlap / (total + ops.cumsum(1.0 - labels, -1))
    steps = ops.concatenate([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)
    return ops.mean(ops.sum(ops.relu(errors) * ops.stop_gradient(steps), -1), -1)


def symmetric_lovasz(truth: Any, predicted: Any) -> Any:
    """The mean of the Lovasz hinge of the areas and of that of what they leave."""
    return 0.5 * (lovasz(truth, predicted) + lovasz(1.0 - truth, 1.0 - predicted))


def _sum_of(*losses: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def loss(truth: Any, predicted: Any) -> Any:
        return sum(each(truth, predicted) for each in losses)

    return loss


LOSSES: Final[Mapping[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {
        "bce": cross_entropy,
        "dice": dice,
        "bce-dice": _sum_of(cross_entropy, dice),
        "focal": focal,
        "lovasz": lovasz,
        "symmetric-lovasz": symmetric_lovasz,
    }
)
"""Losses of semantic networks by the names they have in the field."""
