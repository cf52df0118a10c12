"""Maps of the probability of a class over the lattice."""

from __future__ import annotations

import math

import numpy as np

from slidecascade.outputs.heatmap import Heatmap
from slidecascade.patches.result import PatchesResult
from slidecascade.pipelines.patches import ProbabilityMap


def compute(result: PatchesResult, spec: ProbabilityMap) -> Heatmap:
    """The map `spec` asks for: the lattice itself, a grid cell for each square that meets the region."""
    region, side_l0 = result.region_l0, result.stride_px * result.grid.downsample
    left, top = math.floor(region.x / side_l0), math.floor(region.y / side_l0)
    columns = max(1, math.ceil(region.right / side_l0) - left)
    rows = max(1, math.ceil(region.bottom / side_l0) - top)
    values = np.full((rows, columns), np.nan, np.float32)
    x, y = result.first[0] - left, result.first[1] - top
    known = result.probabilities[:, :, spec.class_index]
    values[y : y + known.shape[0], x : x + known.shape[1]] = known
    return Heatmap(
        name=spec.name,
        title=spec.title,
        unit="probability",
        values=values,
        minimum=0.0,
        maximum=1.0,
        grid_um=side_l0 * result.mpp,
        width_um=region.width * result.mpp,
        height_um=region.height * result.mpp,
        before_x_um=(region.x - left * side_l0) * result.mpp,
        before_y_um=(region.y - top * side_l0) * result.mpp,
    )
