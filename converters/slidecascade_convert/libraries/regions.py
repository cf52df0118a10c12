"""Boxes as tensors, and the two operations on them that PyTorch lacks and ONNX has.

`NonMaxSuppression` and `RoiAlign` are exported as the standard operators of these names; what they compute here
is torchvision's `nms` and `roi_align`, from their descriptions.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

_SAMPLES: Final = 2
"""Along each side of a bin."""

_AT_ONCE: Final = 64
_LARGEST_STEP: Final = math.log(1000 / 16)
"""Of the logarithm of a side, so that untrained networks do not overflow."""


def moved(boxes: Tensor, steps: Tensor, weights: tuple[float, float]) -> Tensor:
    """`boxes` ``(..., 4)`` shifted and scaled by `steps` ``(..., 4)`` as R-CNN encodes them.

    Args:
        boxes: left, top, right, bottom in pixels.
        steps: of the middle in sides, and of the logarithms of the sides, times `weights`.
        weights: of middles and of sides.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    middles = boxes[..., :2] + 0.5 * sides
    middles = middles + steps[..., :2] / weights[0] * sides
    halves = 0.5 * sides * torch.exp((steps[..., 2:] / weights[1]).clamp(max=_LARGEST_STEP))
    return torch.cat([middles - halves, middles + halves], dim=-1)


def clipped(boxes: Tensor, height_px: Tensor | int, width_px: Tensor | int) -> Tensor:
    """`boxes` ``(..., 4)`` cut at the sides of an image."""
    high = (
        boxes.new_tensor([width_px, height_px, width_px, height_px])
        if isinstance(height_px, int)
        else (
            torch.stack([torch.as_tensor(each) for each in (width_px, height_px, width_px, height_px)]).to(boxes)
        )
    )
    return torch.minimum(boxes.clamp(min=0), high)


def kept(boxes: Tensor, scores: Tensor, *, overlap: float, most: int, least: float) -> Tensor:
    """`scores` ``(G, M)``, zeroed where at most `least` and where a better box of the group covers the box.

    Args:
        boxes: ``(G, M, 4)``.
        overlap: of two boxes with a larger intersection over union the worse is dropped.
        most: the best of each group that are kept.
    """
    chosen = _Suppression.apply(boxes, scores[:, None], most, overlap, least)  # type: ignore[no-untyped-call]
    places = chosen[:, 0] * scores.shape[1] + chosen[:, 2]
    marks = torch.zeros_like(scores).flatten().index_put((places,), torch.ones_like(places, dtype=scores.dtype))
    return scores * marks.reshape(scores.shape)


def aligned(features: Tensor, boxes: Tensor, images: Tensor, *, side: int, stride: int) -> Tensor:
    """The `features` ``(N, C, H, W)`` in `boxes` ``(M, 4)`` px of their `images` ``(M,)``: ``(M, C, side, side)``.

    `stride` is that of the features in pixels.
    """
    return _Alignment.apply(features, boxes, images, side, 1 / stride)  # type: ignore[no-any-return, no-untyped-call]


class _Suppression(Function):
    """ONNX's `NonMaxSuppression`: rows of group, 0 and box, the best of each group first."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, most: int, overlap: float, least: float) -> Tensor:
        found = [
            torch.stack([torch.full_like(places, group), torch.zeros_like(places), places], dim=1)
            for group in range(len(boxes))
            for places in [_greedy(boxes[group], scores[group, 0], most, overlap, least)]
        ]
        return torch.cat(found)

    @staticmethod
    def symbolic(graph: Any, boxes: Any, scores: Any, most: int, overlap: float, least: float) -> Any:
        constants = [
            graph.op("Constant", value_t=value)
            for value in (torch.tensor([most]), torch.tensor([overlap]), torch.tensor([least]))
        ]
        return graph.op("NonMaxSuppression", boxes, scores, *constants)


class _Alignment(Function):
    """ONNX's `RoiAlign`: bilinear samples at 2 x 2 places of each bin, averaged."""

    @staticmethod
    def forward(_: Any, features: Tensor, boxes: Tensor, images: Tensor, side: int, scale: float) -> Tensor:
        parts = [
            _sampled(features, boxes[start : start + _AT_ONCE] * scale, images[start : start + _AT_ONCE], side)
            for start in range(0, len(boxes), _AT_ONCE)
        ]
        return torch.cat(parts) if parts else features.new_zeros(0, features.shape[1], side, side)

    @staticmethod
    def symbolic(graph: Any, features: Any, boxes: Any, images: Any, side: int, scale: float) -> Any:
        return graph.op(
            "RoiAlign",
            features,
            boxes,
            images,
            coordinate_transformation_mode_s="output_half_pixel",
            mode_s="avg",
            output_height_i=side,
            output_width_i=side,
            sampling_ratio_i=_SAMPLES,
            spatial_scale_f=scale,
        )


def _greedy(boxes: Tensor, scores: Tensor, most: int, overlap: float, least: float) -> Tensor:
    """Places of the boxes that are kept, by falling score."""
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] > least]
    found = boxes[order].numpy()
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)
    is_open = np.ones(len(found), np.bool_)
    chosen: list[int] = []
    for best in range(len(found)):
        if not is_open[best] or len(chosen) == most:
            continue
        chosen.append(best)
        low, high = np.maximum(found[best:, :2], found[best, :2]), np.minimum(found[best:, 2:], found[best, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        is_open[best:] &= ~(shared > overlap * (areas[best:] + areas[best] - shared))
    return order[torch.tensor(chosen, dtype=torch.int64)]


def _sampled(features: Tensor, boxes: Tensor, images: Tensor, side: int) -> Tensor:
    """Of boxes in pixels of `features`."""
    steps = (torch.arange(side * _SAMPLES) + 0.5) / _SAMPLES
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0) / side
    columns, rows = (boxes[:, axis, None] + steps * sides[:, axis, None] for axis in (0, 1))
    total: Tensor = features.new_zeros(())
    for row, weight in _corners(rows, features.shape[2]):
        for column, other in _corners(columns, features.shape[3]):
            found = features[images[:, None, None], :, row[:, :, None], column[:, None, :]]
            total = total + found * (weight[:, :, None] * other[:, None, :])[..., None]
    total = total.permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(total, _SAMPLES)


def _corners(places: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels on both sides of each of `places` with their weights, which are 0 far outside."""
    is_inside = (places >= -1) & (places <= size)
    at = places.clamp(0, size - 1)
    low = at.long().clamp(max=size - 1)
    part = at - low
    return [(low, (1 - part) * is_inside), ((low + 1).clamp(max=size - 1), part * is_inside)]
