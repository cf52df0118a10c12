"""Slow, obvious references for the fast paths."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray


def rings_one_by_one(labels: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    """The longest outer ring of every label, traced alone in its own mask; pixel centres, x and y."""
    rings = []
    for label in range(1, int(labels.max()) + 1):
        mask = (labels == label).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        rings.append(max(contours, key=len)[:, 0, :].astype(np.float64))
    return rings


def crop_and_resize(
    image: NDArray[np.uint8], centroid: NDArray[np.float64], *, size_px: int, height_px: int, width_px: int
) -> NDArray[np.uint8]:
    """One crop: mirrored at the image's edge, cut at whole pixels, resized bilinearly."""
    margin = size_px
    padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    x, y = (int(np.floor(value - size_px / 2 + 0.5)) + margin for value in centroid)
    crop = padded[y : y + size_px, x : x + size_px]
    return np.asarray(cv2.resize(crop, (width_px, height_px), interpolation=cv2.INTER_LINEAR), np.uint8)


def settle_one_by_one(
    centroids: NDArray[np.float64],
    areas: NDArray[np.float64],
    tile_index: NDArray[np.int64],
    owned: NDArray[np.bool_],
    near_seam: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Every pair of cells looked at: of two that are one cell, the owned one or that of the first tile stays."""
    keep = np.ones(len(centroids), np.bool_)
    radii = np.sqrt(areas / np.pi)
    for i in range(len(centroids)):
        for j in range(i + 1, len(centroids)):
            if not (near_seam[i] and near_seam[j]) or tile_index[i] == tile_index[j]:
                continue
            if np.hypot(*(centroids[i] - centroids[j])) >= 0.5 * min(radii[i], radii[j]):
                continue
            i_first = tile_index[i] < tile_index[j] if owned[i] == owned[j] else owned[i]
            keep[j if i_first else i] = False
    return keep


def most_pairs(iou: NDArray[np.float64], threshold: float) -> int:
    """The most pairs at an IoU that one-to-one matching allows, by trying every assignment; for small matrices."""
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    n, m = iou.shape
    return max(
        sum(bool(iou[i, j] >= threshold) for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(m), n)
    )


def jaccard_cell_by_cell(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> float:
    """The aggregated Jaccard index with sets of pixels, as Kumar et al. (2017) write it down."""
    true_cells = [set(np.flatnonzero(truth == label).tolist()) for label in np.unique(truth[truth > 0])]
    found_cells = [
        set(np.flatnonzero(predicted == label).tolist()) for label in np.unique(predicted[predicted > 0])
    ]
    joined, united = 0, 0
    used: set[int] = set()
    for cell in true_cells:
        ious = [len(cell & found) / len(cell | found) for found in found_cells]
        best = int(np.argmax(ious)) if ious else -1
        if best < 0 or ious[best] == 0:
            united += len(cell)
            continue
        joined += len(cell & found_cells[best])
        united += len(cell | found_cells[best])
        used.add(best)
    united += sum(len(found) for number, found in enumerate(found_cells) if number not in used)
    return joined / united


def filled_pixel_by_pixel(ring: NDArray[np.float64], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies in a ring or on it, asked of every pixel."""
    contour = ring.astype(np.float32)[:, None, :]
    inside = [
        [cv2.pointPolygonTest(contour, (x + 0.5, y + 0.5), False) >= 0 for x in range(width_px)]
        for y in range(height_px)
    ]
    return np.array(inside, np.bool_)


def panoptic_quality_cell_by_cell(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> float:
    """Panoptic quality with sets of pixels, as Kirillov et al. (2019) write it down."""
    true_cells = [set(np.flatnonzero(truth == label).tolist()) for label in np.unique(truth[truth > 0])]
    found_cells = [
        set(np.flatnonzero(predicted == label).tolist()) for label in np.unique(predicted[predicted > 0])
    ]
    ious = [len(cell & found) / len(cell | found) for cell in true_cells for found in found_cells]
    paired = [iou for iou in ious if iou > 0.5]
    missed, invented = len(true_cells) - len(paired), len(found_cells) - len(paired)
    return sum(paired) / (len(paired) + invented / 2 + missed / 2)
