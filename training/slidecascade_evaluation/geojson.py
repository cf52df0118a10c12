"""GeoJSON as QuPath writes it: a FeatureCollection, a Feature, an array of features, or a bare geometry."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from slidecascade.errors import UnusableDataError
from slidecascade.pipelines.classes import full_name
from slidecascade_evaluation.annotation import Annotation, Points

_SHORTEST: Final = 3  # corners of a polygon
MAX_COORDINATE: Final = 2**31
"""Larger than any slide."""

_TYPES: Final = (
    "Feature", "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon",
    "GeometryCollection",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Feature:
    """One object of a file: its class, and its geometry as annotations of that class.

    A MultiPolygon has one annotation per polygon; geometries other than points and polygons have none.
    """

    class_name: str | None
    annotations: tuple[Annotation, ...]


def parse(data: bytes, name: str) -> tuple[tuple[Annotation, ...], int]:
    """All annotations of a GeoJSON file, and how many objects were neither points nor polygons.

    Raises:
        UnusableDataError: as `read_features`.
    """
    features = read_features(data, name)
    found = tuple(annotation for feature in features for annotation in feature.annotations)
    return found, sum(not feature.annotations for feature in features)


def stated_origin(data: bytes) -> str | None:
    """The origin of the coordinates, ``slide`` or ``bounds``, as files of this service state it; None if the file
    states none."""
    import orjson

    if b'"slidecascade"' not in data[:4096]:
        return None
    try:
        member = orjson.loads(data.removeprefix(codecs.BOM_UTF8)).get("slidecascade")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    found = member.get("origin", "slide") if isinstance(member, dict) else None
    if found not in {"slide", "bounds", None}:
        raise UnusableDataError(
            "The member slidecascade of an annotation file has an origin that is neither slide nor bounds: give "
            "--annotation-origin."
        )
    return str(found) if found else None


def read_features(data: bytes, name: str) -> tuple[Feature, ...]:
    """The objects of a GeoJSON file, in its order. A QuPath cell is represented by its nucleus if it has one.

    Raises:
        UnusableDataError: the file is not GeoJSON; `name` is the file's name for the message.
    """
    import orjson

    text = data.removeprefix(codecs.BOM_UTF8)  # some editors write a byte order mark
    try:
        root = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if not _is_utf8(text):
            raise UnusableDataError(
                f"{name} is not text in UTF-8: save it as UTF-8 or export it again."
            ) from error
        raise UnusableDataError(
            f"{name} is not valid JSON (line {error.lineno}): export the annotations again."
        ) from error
    found: list[Feature] = []
    try:
        found.extend(map(_feature, _features(root)))
    except _WrongObjectError as error:
        raise UnusableDataError(
            f"{name} has {error} in object {len(found) + 1}: correct that, or export the annotations again."
        ) from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnusableDataError(
            f"{name} is JSON but not GeoJSON as QuPath writes it: export the annotations again."
        ) from error
    _require_pixels(found, name)
    return tuple(found)


class _WrongObjectError(ValueError):
    """What an object has that it must not have."""


def _require_pixels(features: list[Feature], name: str) -> None:
    """Polygons within a single pixel are drawn in fractions of the image."""
    polygons = [ring for feature in features for item in feature.annotations for ring in item.rings_l0]
    if polygons and all(ring.min() >= 0 and ring.max() <= 1 for ring in polygons):
        raise UnusableDataError(
            f"All polygons of {name} lie between 0 and 1, as fractions of the image do: export them in pixels."
        )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _features(root: Any) -> list[dict[str, Any]]:
    if isinstance(root, list):
        return root
    if "features" in root:  # some programs omit the type of the collection
        features: list[dict[str, Any]] = root["features"]
        if not isinstance(features, list):
            raise TypeError("features must be an array")
        return features
    if root["type"] not in _TYPES:
        raise ValueError("not GeoJSON")
    return [root if root["type"] == "Feature" else {"type": "Feature", "geometry": root, "properties": {}}]


def _feature(feature: dict[str, Any]) -> Feature:
    class_name = _class_name((feature.get("properties") or {}).get("classification"))
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    if geometry is None:
        raise _WrongObjectError("no geometry")
    return Feature(class_name, tuple(_annotations(class_name, geometry["type"], geometry.get("coordinates"))))


def _annotations(class_name: str | None, kind: str, coordinates: Any) -> Iterator[Annotation]:
    if kind == "Point":
        yield Annotation.of_points(class_name, _points([coordinates]))
    elif kind == "MultiPoint":
        yield Annotation.of_points(class_name, _points(coordinates))
    elif kind == "Polygon":
        yield _polygon(class_name, coordinates)
    elif kind == "MultiPolygon":
        for rings in coordinates:
            yield _polygon(class_name, rings)


def _class_name(classification: Any) -> str | None:
    if isinstance(classification, dict):
        classification = classification.get("name") or full_name(classification.get("names") or ())
    if classification is not None and not isinstance(classification, str):
        raise _WrongObjectError("a class that is not text")
    return classification or None


def _polygon(class_name: str | None, rings: list[Any]) -> Annotation:
    outline, *holes = (_points(ring) for ring in rings) if rings else (np.empty((0, 2)),)
    if len(outline) < _SHORTEST:
        raise _WrongObjectError("a polygon of fewer than three corners")
    return Annotation.of_polygon(class_name, [outline, *(hole for hole in holes if len(hole) >= _SHORTEST)])


def _points(coordinates: list[Any]) -> Points:
    if not coordinates:
        return np.empty((0, 2))
    points = np.array([position[:2] for position in coordinates])
    if points.dtype.kind not in "iuf" or points.shape[1:] != (2,):
        raise _WrongObjectError("a position that is not two numbers")
    points = points.astype(np.float64)
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise _WrongObjectError("a position that is on no slide")
    return points
