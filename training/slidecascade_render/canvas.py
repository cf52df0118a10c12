"""Stain concentrations being painted, and the smooth steps and textures to paint with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidecascade_render.lattice import Field, Floats, Noise

Labels = npt.NDArray[np.int32]
Box = tuple[slice, slice]


@dataclass(slots=True)
class Canvas:
    """Stain concentrations being painted, float32 (H, W) each, and the row + 1 of each pixel's nucleus.

    `fat` is how much of each pixel shows a vacuole of fat, 0 to 1; None where a tissue has none.
    """

    x_um: Floats
    y_um: Floats
    mpp: float
    haematoxylin: Field
    eosin: Field
    blood: Field
    labels: Labels
    fat: Field | None = None

    def box(self, x_um: float, y_um: float, reach_um: float) -> Box | None:
        """Rows and columns within `reach_um` of a point; None if the canvas has none."""
        left, right = np.searchsorted(self.x_um, (x_um - reach_um, x_um + reach_um))
        top, bottom = np.searchsorted(self.y_um, (y_um - reach_um, y_um + reach_um))
        if left == right or top == bottom:
            return None
        return slice(int(top), int(bottom)), slice(int(left), int(right))

    def offsets(self, box: Box, x_um: float, y_um: float) -> tuple[Field, Field]:
        """Distances in x, float32 (1, w), and in y, float32 (h, 1), from a point to the pixels of a box."""
        across = (self.x_um[box[1]] - x_um).astype(np.float32)
        down = (self.y_um[box[0]] - y_um).astype(np.float32)
        return across[None, :], down[:, None]

    def cover(self, box: Box, alpha: Field, haematoxylin: Field | float, eosin: Field | float) -> None:
        """Lay a translucent layer over a box."""
        for stain, value in ((self.haematoxylin, haematoxylin), (self.eosin, eosin), (self.blood, 0.0)):
            stain[box] += alpha * (value - stain[box])
        if self.fat is not None:
            self.fat[box] *= 1.0 - alpha


def ramp(values: Field) -> Field:
    """A smooth step from 0 to 1 as `values` go from 0 to 1."""
    clipped = np.clip(values, 0.0, 1.0)
    return clipped * clipped * (np.float32(3.0) - 2.0 * clipped)


def texture(canvas: Canvas, seed: int, channel: int, pitch_um: float) -> Field:
    """Noise over the canvas, faded out where its pitch is finer than the pixels can carry."""
    carried = min(1.0, max(0.0, 1.6 * pitch_um / canvas.mpp - 1.0))
    if carried == 0.0:
        return np.zeros(canvas.labels.shape, np.float32)
    return Noise(seed, channel, pitch_um).over(canvas.x_um, canvas.y_um) * np.float32(carried)
