"""Tiles of a lattice, and areas with holes: the results of pipelines of patches and areas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidecascade.wire import Color, JsonObject
from slidecascade_client.cells import probabilities_of

_AREA = "Area µm^2"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """A square of the lattice.

    Attributes:
        id: UUID, the same again for the same slide, pipeline and models.
        class_name: None where no class reaches the threshold.
        polygon: ``(4, 2)`` float64, its corners in level-0 pixels (pixels of the image for an upload).
        probabilities: by class name.
    """

    id: str
    class_name: str | None
    polygon: NDArray[np.float64]
    probabilities: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Area:
    """An area: of a pipeline of areas, or the outline of tiles above the threshold.

    Attributes:
        id: UUID, the same again for the same slide, pipeline and models.
        class_name, color: of the class; RGB 0..255.
        rings: ``(V, 2)`` float64 each, x and y in level-0 pixels (pixels of the image for an upload), not closed:
            the outline, then its holes.
        area_um2: area in square micrometres, without holes.
        measurements: all of them by name.
    """

    id: str
    class_name: str
    color: Color
    rings: tuple[NDArray[np.float64], ...]
    area_um2: float
    measurements: Mapping[str, float]


def tiles_of(features: Iterable[JsonObject]) -> tuple[Tile, ...]:
    """The tiles among `features`."""
    return tuple(_tile(item) for item in features if item["properties"]["objectType"] == "tile")


def areas_of(features: Iterable[JsonObject]) -> tuple[Area, ...]:
    """The annotations among `features`."""
    return tuple(_area(item) for item in features if item["properties"]["objectType"] == "annotation")


def _tile(feature: JsonObject) -> Tile:
    properties = feature["properties"]
    (probabilities,) = probabilities_of(properties["measurements"]).values()
    classification = properties.get("classification")
    return Tile(
        id=feature["id"],
        class_name=classification and classification["name"],
        polygon=_ring(feature["geometry"]["coordinates"][0]),
        probabilities=probabilities,
    )


def _area(feature: JsonObject) -> Area:
    properties = feature["properties"]
    red, green, blue = properties["classification"]["color"]
    return Area(
        id=feature["id"],
        class_name=properties["classification"]["name"],
        color=(red, green, blue),
        rings=tuple(map(_ring, feature["geometry"]["coordinates"])),
        area_um2=properties["measurements"][_AREA],
        measurements=properties["measurements"],
    )


def _ring(positions: list[list[float]]) -> NDArray[np.float64]:
    return np.array(positions[:-1], np.float64)
