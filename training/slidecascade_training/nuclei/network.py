"""The nuclei network and its loss, in operations of any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from slidecascade_training.nuclei.targets import WEIGHT_UNIT

WIDTHS: Final = (48, 96, 192)
DETAIL_WIDTH: Final = 8


def stride_of(widths: Sequence[int]) -> int:
    """The required divisor of height and width, for a network of these levels."""
    return 1 << len(widths)


def build_network(widths: Sequence[int] = WIDTHS, maps: int = 2) -> Any:
    """A U-Net from float32 ``(N, H, W, 3)`` in 0 to 1 to ``(N, H, W, maps)``: of nuclei, foreground and depth.

    After Ronneberger et al. (2015), with two changes that halve its cost: the first convolution has stride 2 and
    the maps return to full resolution by a depth-to-space rearrangement (Shi et al., 2016), also used between
    levels. H and W are multiples of `stride_of` the widths. Three convolutions at the bottom and one at the top,
    instead of two and two, enlarge the receptive field at no cost. A narrow pair of convolutions at full
    resolution corrects the maps for detail lost at half the resolution; it is initialised to no correction.
    """
    import keras
    from keras import layers, ops

    def block(tensor: Any, width: int, size: int = 3, stride: int = 1) -> Any:
        tensor = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False)(tensor)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.98)(tensor))

    image = keras.Input((None, None, 3), name="image")
    # The square root spreads dark fluorescence, where nuclei differ from the ground by a few grey levels.
    lit = layers.Concatenate()([image, ops.sqrt(image)])
    tensor = block(block(lit, widths[0], size=4, stride=2), widths[0])
    skips = []
    for width in widths[1:]:
        skips.append(tensor)
        tensor = block(block(layers.MaxPooling2D()(tensor), width), width)
    tensor = block(tensor, widths[-1])
    for width, skip in zip(widths[-2::-1], reversed(skips), strict=True):
        tensor = ops.depth_to_space(layers.Conv2D(4 * width, 1)(tensor), 2)
        tensor = block(layers.Concatenate()([tensor, skip]), width)
        if width != widths[0]:
            tensor = block(tensor, width)
    coarse = ops.depth_to_space(layers.Conv2D(4 * maps, 1)(tensor), 2)
    context = ops.depth_to_space(layers.Conv2D(4 * DETAIL_WIDTH, 1)(tensor), 2)
    detail = block(layers.Concatenate()([lit, context]), DETAIL_WIDTH)
    correction = layers.Conv2D(maps, 3, padding="same", kernel_initializer="zeros")(detail)
    logits = layers.Add()([coarse, correction])
    return keras.Model(image, layers.Activation("sigmoid")(logits), name="nuclei_unet")


def weighted_loss(planes: Any, predicted: Any) -> Any:
    """Weighted cross-entropy of both maps plus soft Dice of the foreground.

    Args:
        planes: ``(N, H, W, 3)``, 0 to 255, as of `target_planes`: foreground, relative depth, weight.
        predicted: ``(N, H, W, 2)`` float32, 0 to 1.
    """
    from keras import ops

    is_cell = ops.cast(planes[..., 0] >= 127.5, predicted.dtype)
    truth = ops.stack([is_cell, is_cell * planes[..., 1] / 255.0], axis=-1)
    weight = planes[..., 2:] / WEIGHT_UNIT
    clipped = ops.clip(predicted, 1e-5, 1.0 - 1e-5)
    entropy = -(truth * ops.log(clipped) + (1.0 - truth) * ops.log(1.0 - clipped))
    overlap = ops.sum(is_cell * predicted[..., 0])
    total = ops.sum(is_cell + predicted[..., 0])
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
    return ops.mean(weight * entropy) + 0.5 * dice
