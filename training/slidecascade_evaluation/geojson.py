"""Known cells as GeoJSON: a polygon per cell in pixels of the image, as QuPath exports detections."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from slidecascade.errors import InvalidRequestError
from slidecascade_evaluation.matching import Labels
from slidecascade_evaluation.rasters import labels_from_outlines


def read_cells(data: bytes, name: str, *, height_px: int, width_px: int) -> tuple[Labels, dict[int, str] | None]:
    """Labels ``(H, W)``, feature ``i`` as ``i + 1``, and the class by label; None when no feature has a class.

    A polygon's holes are filled; of a MultiPolygon the longest ring is taken.

    Args:
        data: of the file; `name`: of the file, for messages.

    Raises:
        InvalidRequestError: the file is no FeatureCollection of polygons, or a cell has no pixel in the image.
    """
    try:
        features = json.loads(data)["features"]
        rings = [_outer_ring(feature["geometry"]) for feature in features]
        names = [(feature.get("properties") or {}).get("classification") or {} for feature in features]
        classes = {number: str(item["name"]) for number, item in enumerate(names, start=1) if item}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise InvalidRequestError(
            f"{name} is not a FeatureCollection of polygons in pixels of the image: export it again."
        ) from error
    offsets = np.cumsum([0, *map(len, rings)]).astype(np.int64)
    vertices = np.array([point for ring in rings for point in ring], np.float64).reshape(-1, 2)
    labels = labels_from_outlines(vertices, offsets, height_px=height_px, width_px=width_px)
    drawn = np.bincount(labels.ravel(), minlength=len(offsets)) > 0
    if not drawn[1:].all():
        lost = int(np.flatnonzero(~drawn[1:])[0]) + 1
        raise InvalidRequestError(
            f"Cell {lost} of {name} has no pixel in its image of {width_px} x {height_px} pixels: "
            "coordinates are pixels of the image; correct or remove it."
        )
    return labels, classes or None


_FARTHEST_PX = 1e7


def _outer_ring(geometry: dict[str, Any]) -> list[tuple[float, float]]:
    """The ring's points, the closing one left out."""
    if geometry["type"] not in {"Polygon", "MultiPolygon"}:
        raise ValueError("not a polygon")
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    ring = [(float(x), float(y)) for x, y, *_ in max((polygon[0] for polygon in polygons), key=len)]
    if ring[0] == ring[-1]:
        ring.pop()
    if len(ring) < 3 or not all(
        math.isfinite(value) and abs(value) < _FARTHEST_PX for point in ring for value in point
    ):
        raise ValueError("not a ring")
    return ring
