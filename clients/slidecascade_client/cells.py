"""The cells of a result, created from its GeoJSON on access."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from slidecascade.wire import Color, JsonObject

_SCORE = "Detection score"
_AREA = "Area µm^2"
_AREA_PX = "Area px^2"
_PROBABILITY = " probability"  # "<model> <class> probability"; model names hold no space


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One cell.

    Attributes:
        id: UUID, the same again for the same region, pipeline and models.
        class_name: e.g. ``Hepatocyte: Ballooning``.
        color: of the class, RGB 0..255.
        polygon: ``(V, 2)`` float64, x and y of the outline in level-0 pixels (pixels of the image for an
            upload); not closed: the first vertex is not repeated.
        score: mean foreground probability of the segmenter, in [0, 1].
        area_um2: area in square micrometres; NaN where the size of pixels is not known.
        area_px: area in square level-0 pixels where that size is not known, else NaN.
        probabilities: by model name, then class name, for every classifier that was run on the cell.
    """

    id: str
    class_name: str
    color: Color
    polygon: NDArray[np.float64]
    score: float
    area_um2: float
    area_px: float
    probabilities: Mapping[str, Mapping[str, float]]


class Cells(Sequence[Cell]):
    """All cells of a result, in the order of the response. A view: each `Cell` is created on access."""

    __slots__ = ("_features",)

    def __init__(self, features: Sequence[JsonObject]) -> None:
        self._features = features

    def __len__(self) -> int:
        return len(self._features)

    def __iter__(self) -> Iterator[Cell]:
        return map(_cell, self._features)

    @overload
    def __getitem__(self, index: int) -> Cell: ...

    @overload
    def __getitem__(self, index: slice) -> Cells: ...

    def __getitem__(self, index: int | slice) -> Cell | Cells:
        if isinstance(index, slice):
            return Cells(self._features[index])
        return _cell(self._features[index])

    def __repr__(self) -> str:
        return f"<{len(self)} cells>"


def _cell(feature: JsonObject) -> Cell:
    properties = feature["properties"]
    measurements: dict[str, float] = properties["measurements"]
    red, green, blue = properties["classification"]["color"]
    return Cell(
        id=feature["id"],
        class_name=properties["classification"]["name"],
        color=(red, green, blue),
        polygon=np.array(feature["geometry"]["coordinates"][0][:-1], np.float64),
        score=measurements[_SCORE],
        area_um2=measurements.get(_AREA, math.nan),
        area_px=measurements.get(_AREA_PX, math.nan),
        probabilities=probabilities_of(measurements),
    )


def probabilities_of(measurements: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The probabilities among `measurements`, by model name, then class name."""
    by_model: dict[str, dict[str, float]] = {}
    for name, value in measurements.items():
        model, space, class_name = name.removesuffix(_PROBABILITY).partition(" ")
        if name.endswith(_PROBABILITY) and space:
            by_model.setdefault(model, {})[class_name] = value
    return by_model
