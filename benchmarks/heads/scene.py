"""Label images of cells that touch, and the outputs that a good network of each sort would return for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]


def cells(seed: int, side_px: int, count: int, *, radius_px: tuple[int, int] = (9, 17)) -> NDArray[np.int32]:
    """``(side, side)`` labels: at most `count` ellipses, some of which touch; each is one piece."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side_px, side_px), np.int32)
    number = 0
    for _ in range(20 * count):
        if number == count:
            break
        axes = rng.integers(*radius_px, 2, endpoint=True)
        centre = rng.integers(-2, side_px + 2, 2)
        left, top = np.maximum(centre - axes.max() - 1, 0)
        window = labels[top : centre[1] + axes.max() + 2, left : centre[0] + axes.max() + 2]
        shape = np.zeros(window.shape, np.uint8)
        place = (int(centre[0] - left), int(centre[1] - top))
        cv2.ellipse(shape, place, (int(axes[0]), int(axes[1])), int(rng.integers(0, 180)), 0, 360, 1, -1)
        # A cell may lie beside another, but not on it.
        if not shape.any() or np.count_nonzero(window[shape > 0]):
            continue
        number += 1
        window[shape > 0] = number
    return labels


def _depth(labels: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far each pixel is from the edge of its cell, in pixels, and as a part of the cell's deepest."""
    apart = labels.copy()
    for axis in (0, 1):
        ahead = np.roll(labels, -1, axis=axis)
        apart[(labels != ahead) & (ahead > 0)] = 0
    depth = cv2.distanceTransform((apart > 0).astype(np.uint8), cv2.DIST_L2, 5)
    deepest = np.ones(int(labels.max()) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    deepest[0] = 1
    return depth, depth / deepest[labels]


def noise(seed: int, shape: tuple[int, ...], sigma_px: float) -> NDArray[np.float32]:
    """Smooth noise of unit variance."""
    white = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigma_px)
    return np.asarray(smooth / smooth.std(), np.float32).reshape(shape)


def star_outputs(labels: NDArray[np.int32], *, seed: int, grid: int, rays: int = 32) -> Outputs:
    """``prob`` and ``dist`` of StarDist."""
    height, width = labels.shape
    _, part = _depth(labels)
    probability = np.clip(0.85 * part[::grid, ::grid] + 0.03 * noise(seed, part[::grid, ::grid].shape, 1.0), 0, 1)
    rows, columns = np.nonzero(labels[::grid, ::grid])
    rows, columns = rows * grid, columns * grid
    own = labels[rows, columns]
    angles = np.arange(rays) * (2 * np.pi / rays)
    reached = np.zeros((len(own), rays), np.float32)
    inside = np.ones((len(own), rays), np.bool_)
    for step in range(1, 64):
        y = np.rint(rows[:, None] + step * np.sin(angles)).astype(np.int64)
        x = np.rint(columns[:, None] + step * np.cos(angles)).astype(np.int64)
        inside &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
        inside &= labels[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] == own[:, None]
        reached[inside] = step
        if not inside.any():
            break
    distances = np.zeros((*probability.shape, rays), np.float32)
    wobble = 1 + 0.05 * noise(seed + 1, probability.shape, 2.0)[..., None]
    distances[rows // grid, columns // grid] = reached + 0.5
    return {"prob": probability[..., None].astype(np.float32), "dist": (distances * wobble).astype(np.float32)}


def flow_outputs(labels: NDArray[np.int32], *, seed: int) -> Outputs:
    """``flows`` of Cellpose: towards the middle, five times a unit vector, less near the middle."""
    rows, columns = np.nonzero(labels)
    own = labels[rows, columns]
    areas = np.maximum(np.bincount(own), 1)
    down = np.bincount(own, weights=rows)[own] / areas[own] - rows
    right = np.bincount(own, weights=columns)[own] / areas[own] - columns
    length = np.hypot(down, right)
    speed = 5 * np.minimum(1, length / 3) / np.maximum(length, 1e-6)
    flows = np.zeros((3, *labels.shape), np.float32)
    flows[0][rows, columns], flows[1][rows, columns] = down * speed, right * speed
    flows[:2] += 0.25 * np.stack([noise(seed + axis, labels.shape, 2.0) for axis in (0, 1)])
    flows[2] = np.where(labels > 0, 4, -4) + noise(seed + 2, labels.shape, 2.0)
    return {"flows": flows}


def distance_outputs(labels: NDArray[np.int32], *, seed: int) -> Outputs:
    """Inner distance and pixelwise outputs of Mesmer, for whole cells and, in their middle, for nuclei."""
    depth, part = _depth(labels)
    found: dict[str, NDArray[Any]] = {}
    for name, shown in (("whole_cell", part), ("nuclear", np.clip(2 * part - 1, 0, 1))):
        inside = np.clip(depth / 2, 0, 1) * (shown > 0)
        inside = np.clip(
            cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1) + 0.02 * noise(seed, labels.shape, 1), 0, 1
        )
        smooth = cv2.GaussianBlur(shown.astype(np.float32), (0, 0), 2)
        inner = np.clip(0.95 * smooth + 0.001 * noise(seed + 1, labels.shape, 2), 0, 1)
        found[f"{name}_inner_distance"] = inner[..., None].astype(np.float32)
        pixelwise = np.stack([np.zeros_like(inside), inside, 1 - inside], axis=-1)
        found[f"{name}_pixelwise"] = pixelwise.astype(np.float32)
    return found


def detection_outputs(labels: NDArray[np.int32], *, seed: int, mask_px: int = 28) -> Outputs:
    """Boxes, scores, labels and masks of a Mask R-CNN, each cell found twice, once less well."""
    rng = np.random.default_rng(seed)
    count = int(labels.max())
    rows, columns = np.nonzero(labels)
    own = labels[rows, columns] - 1
    low, high = np.full((count, 2), np.inf), np.zeros((count, 2))
    np.minimum.at(low, own, np.stack([columns, rows], axis=1))
    np.maximum.at(high, own, np.stack([columns, rows], axis=1) + 1)
    boxes = np.concatenate([np.hstack([low, high]) + rng.uniform(-0.4, 0.4, (count, 4)) for _ in range(2)])
    numbers = np.tile(np.arange(1, count + 1), 2)
    span = (np.arange(mask_px) + 0.5) / mask_px
    x = np.clip(boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * span, 0, labels.shape[1] - 1).astype(np.int64)
    y = np.clip(boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * span, 0, labels.shape[0] - 1).astype(np.int64)
    masks = (labels[y[:, :, None], x[:, None, :]] == numbers[:, None, None]).astype(np.float32)
    scores = np.concatenate([rng.uniform(0.8, 1, count), rng.uniform(0.3, 0.79, count)])
    return {
        "boxes": boxes.astype(np.float32),
        "scores": scores.astype(np.float32),
        "labels": np.ones(len(boxes), np.int64),
        "masks": np.clip(0.9 * masks + 0.05, 0, 1).astype(np.float32),
    }


def probability_outputs(labels: NDArray[np.int32], *, seed: int) -> Outputs:
    """The seven maps of a U2-Net, of which the first is its answer."""
    _, part = _depth(labels)
    maps = {}
    for place in range(7):
        shown = np.clip(0.2 + 0.9 * part * (part > 0) + 0.03 * noise(seed + place, labels.shape, 2.0), 0, 1)
        maps[f"d{place}"] = np.where(labels > 0, shown, 0.02).astype(np.float32)[None]
    return maps
