"""Cells drawn over the region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.result import Analysis
from slidecascade.outputs import overlay


def draw(analysis: Analysis, image_rgb: NDArray[np.uint8], *, downsample: float) -> NDArray[np.uint8]:
    """The outlines of all cells over `image_rgb`; see `slidecascade.outputs.overlay.draw`."""
    areas = analysis.instances.areas
    typical_l0 = float(2 * np.sqrt(np.median(areas) / np.pi)) if len(areas) else 0.0
    return overlay.draw(analysis, shapes_of(analysis), image_rgb, downsample=downsample, typical_l0=typical_l0)


def shapes_of(analysis: Analysis) -> list[overlay.Shapes]:
    """The outlines of all cells, by class."""
    shapes = []
    for index, end in enumerate(analysis.classes.ends):
        cells = analysis.instances.take(analysis.class_index == index)
        shapes.append(overlay.Shapes(end.name, end.color, len(cells), cells.vertices, cells.offsets))
    return shapes
