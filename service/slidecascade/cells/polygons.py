"""From polygons to cells.

Everything about an object is computed from its vertices relative to its anchor; the anchor's place, a whole
number, is added last. So an object is the same, bit for bit, in every box that shows it.
"""

from __future__ import annotations

import numpy as np

from slidecascade.cells.instances import Instances
from slidecascade.heads.objects import SUBPIXELS, Polygons, areas_and_centres


def place(polygons: Polygons, *, origin: tuple[int, int]) -> Instances:
    """The cells of `polygons` in the frame in which their image's corner lies at `origin`, in whole pixels."""
    vertices = np.rint(polygons.vertices * SUBPIXELS) / SUBPIXELS
    areas, centres = areas_and_centres(vertices, polygons.offsets)
    corners = (polygons.anchors + np.array(origin)).astype(np.float64)
    return Instances(
        centroids=centres + corners,
        areas=areas,
        scores=polygons.scores,
        vertices=vertices + np.repeat(corners, np.diff(polygons.offsets), axis=0),
        offsets=polygons.offsets,
    )
