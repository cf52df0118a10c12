"""Classifiers one after another: each stage sees the cells the stage before selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from slidecascade.geometry import Box, Grid
from slidecascade.models.spec import ClassifierSpec
from slidecascade.pipelines.cells import CellsPipeline, Stage
from slidecascade.slides import crops

BATCH = 32
"""Cells per run of a classifier: enough to make the call's own cost vanish, few enough to stop in time."""

ReadPatch = Callable[[Grid, Box], NDArray[np.uint8]]
RunModel = Callable[[ClassifierSpec, NDArray[np.uint8]], NDArray[np.float32]]


def classify(
    centroids_l0: NDArray[np.float64],
    pipeline: CellsPipeline,
    *,
    grids: Mapping[str, Grid],
    floors: Mapping[str, float],
    read: ReadPatch,
    run: RunModel,
) -> tuple[NDArray[np.float32], ...]:
    """Class probabilities of cells, one ``(N, C_k)`` float32 matrix per stage, NaN where a stage did not look.

    Args:
        centroids_l0: ``(N, 2)`` level-0 positions.
        pipeline: the cascade.
        grids: the pixel grid of each classifier, by model name.
        floors: least probability a class must reach to be selected for the next stage, by model name.
        read: gives the pixels of a box of a grid.
        run: the probabilities that a model gives for ``(n, H, W, 3)`` uint8 images.
    """
    seen = np.arange(len(centroids_l0))
    matrices: list[NDArray[np.float32]] = []
    for stage in pipeline.stages:
        if stage.parent is not None:
            winner = chosen_class(matrices[-1], floors[pipeline.stages[len(matrices) - 1].model.name])
            seen = np.flatnonzero(winner == stage.parent)
        matrix = np.full((len(centroids_l0), len(stage.model.classes)), np.nan, np.float32)
        if len(seen):
            grid = grids[stage.model.name]
            matrix[seen] = _probabilities(stage, grid, grid.grid_from_l0(centroids_l0[seen]), read, run)
        matrices.append(matrix)
    return tuple(matrices)


def chosen_class(probabilities: NDArray[np.float32], floor: float) -> NDArray[np.int64]:
    """The most probable class of each row; -1 where it does not reach `floor` or the row is NaN."""
    best = np.argmax(probabilities, axis=1)
    reached = probabilities[np.arange(len(best)), best] >= floor  # False for NaN
    return np.where(reached, best, -1)


def final_classes(
    matrices: tuple[NDArray[np.float32], ...], pipeline: CellsPipeline, floors: Mapping[str, float], count: int
) -> NDArray[np.int64]:
    """``(count,)`` index into ``pipeline.classes`` of the class each cell ends in."""
    ends = np.zeros(count, np.int64)
    for stage, matrix, places in zip(pipeline.stages, matrices, pipeline.leaves, strict=True):
        seen = ~np.isnan(matrix[:, 0])
        # Class -1 (no class was probable enough) takes the last place, which is "Unclassified".
        ends[seen] = np.array(places)[chosen_class(matrix[seen], floors[stage.model.name])]
    return ends


def _probabilities(
    stage: Stage, grid: Grid, centroids: NDArray[np.float64], read: ReadPatch, run: RunModel
) -> NDArray[np.float32]:
    model = stage.model
    height_px, width_px = model.crop_shape_px
    corners = crops.corners_of(centroids, model.crop.size_px)
    box = crops.bounds_of(corners, model.crop.size_px)
    images = crops.cut(
        read(grid, box),
        corners - np.array([box.x, box.y]),
        size_px=model.crop.size_px,
        height_px=height_px,
        width_px=width_px,
    )
    count = len(images)
    if count % BATCH == 1:
        # The product of a single row is rounded in another way than that of several: no image runs alone.
        images = np.concatenate([images, images[-1:]])
    parts = [run(model, images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(parts)[:count]
