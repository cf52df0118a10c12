"""Whether a peer finds the same cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidecascade_evaluation.matching import Labels, iou_matrix
from slidecascade_evaluation.rasters import labels_from_outlines

_SAME_CELL = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Answers of a peer compared with the expected ones, over all regions.

    `other_class` counts cells that both have but in different classes; `score_by` is how far a probability is off
    at most, of the four decimals that are written.
    """

    cells: int
    missing: int = 0
    added: int = 0
    other_class: int = 0
    least_iou: float = 1.0
    score_by: float = 0.0

    @property
    def same(self) -> bool:
        """The same cells in the same classes."""
        return not (self.missing or self.added or self.other_class)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            cells=self.cells + other.cells,
            missing=self.missing + other.missing,
            added=self.added + other.added,
            other_class=self.other_class + other.other_class,
            least_iou=min(self.least_iou, other.least_iou),
            score_by=max(self.score_by, other.score_by),
        )


NOTHING = Agreement(cells=0)


def agreement(expected: bytes, given: bytes) -> Agreement:
    """How far two GeoJSON answers to the same region agree; equal bytes are not looked into.

    Raises:
        ValueError: `given` is not GeoJSON of the service.
    """
    mine = json.loads(expected)
    if expected == given:
        return Agreement(cells=len(mine["features"]))
    try:
        other = json.loads(given)
        return _compared(mine["features"], other["features"], mine["slidecascade"]["region"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"The answer is not GeoJSON of the service: {given[:200]!r}") from error


def _compared(mine: list[dict[str, Any]], other: list[dict[str, Any]], region: dict[str, int]) -> Agreement:
    iou = iou_matrix(_labels(mine, region), _labels(other, region))
    if not iou.size:
        return Agreement(cells=len(mine), missing=len(mine), added=len(other))
    best = iou.argmax(axis=1)
    found = iou.max(axis=1) > _SAME_CELL  # above one half, partners are unique
    pairs = [(mine[row], other[int(best[row])]) for row in np.flatnonzero(found)]
    return Agreement(
        cells=len(mine),
        missing=len(mine) - len(pairs),
        added=len(other) - len(pairs),
        other_class=sum(_class(one) != _class(two) for one, two in pairs),
        least_iou=round(float(iou.max(axis=1)[found].min(initial=1.0)), 4),
        score_by=round(
            max((_furthest(one, two) for one, two in pairs if _class(one) == _class(two)), default=0), 4
        ),
    )


def _labels(features: list[dict[str, Any]], region: dict[str, int]) -> Labels:
    rings = [np.array(feature["geometry"]["coordinates"][0][:-1], np.float64) for feature in features]
    offsets = np.cumsum([0, *map(len, rings)]).astype(np.int64)
    vertices = np.concatenate([np.zeros((0, 2)), *rings]) - (region["x"], region["y"])
    return labels_from_outlines(vertices, offsets, height_px=region["height"], width_px=region["width"])


def _class(feature: dict[str, Any]) -> str:
    return str(feature["properties"]["classification"]["name"])


def _furthest(one: dict[str, Any], two: dict[str, Any]) -> float:
    first, second = (feature["properties"]["measurements"] for feature in (one, two))
    shared = [name for name in first.keys() & second.keys() if "rea" not in name]
    return max((abs(first[name] - second[name]) for name in shared), default=0.0)
