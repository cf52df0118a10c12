"""QuPath's rules for GeoJSON, as an oracle.

`check_importable` holds what QuPath's reader (0.4 to 0.8) fails on or silently mistakes: breaking one of
these rules loses the whole file, a class or an object. `check_feature_collection` adds what this service
promises on top: UUID ids, detections, a coloured class, a mapping of numbers, 2 decimals.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any, NoReturn

GEOMETRIES = {"Polygon": 1, "MultiPolygon": 2}
"""Geometries cells can have, with how many lists lie around their rings."""

MAX_DECIMALS = 2


def check_feature_collection(text: str | bytes) -> int:
    """The number of features; AssertionError with the broken rule when this is not a file QuPath imports whole."""
    document = parse(text)
    assert isinstance(document, dict), "the root is a FeatureCollection"
    assert document.get("type") == "FeatureCollection", "the root is a FeatureCollection"
    assert "crs" not in document, "pixels have no crs"
    features = document.get("features")
    assert isinstance(features, list), "features is a list"
    ids = set()
    for feature in features:
        _check_importable_feature(feature)
        _check_promised_feature(feature)
        ids.add(feature["id"])
    assert len(ids) == len(features), "ids are unique"
    return len(features)


def check_importable(text: str | bytes) -> int:
    """The number of features in a collection, an array of features or a single feature that QuPath can read."""
    document = parse(text)
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document["features"]
    features = document if isinstance(document, list) else [document]
    for feature in features:
        _check_importable_feature(feature)
    return len(features)


def parse(text: str | bytes) -> Any:
    """The JSON document; NaN and Infinity are no JSON, and one name stands once in an object."""

    def refuse_constant(name: str) -> NoReturn:
        raise AssertionError(f"{name} is no JSON number")

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "an object holds a name twice"
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_twice)
    except json.JSONDecodeError as error:
        raise AssertionError(f"the text is no JSON: {error}") from error


def _check_importable_feature(feature: Any) -> None:
    assert isinstance(feature, dict), "a feature is an object"
    assert feature.get("type") == "Feature", "a feature says that it is one"
    _check_geometry(feature.get("geometry"))
    properties = feature.get("properties", {})
    assert isinstance(properties, dict), "properties is an object, not null"
    classification = properties.get("classification")
    if isinstance(classification, dict):
        assert "name" in classification or "names" in classification, "a classification has a name"
        assert {"color", "colorRGB"} & set(classification), "a classification has a color"


def _check_geometry(geometry: Any) -> None:
    assert isinstance(geometry, dict), "a feature has a geometry"
    assert geometry.get("type") in GEOMETRIES, "a geometry is a Polygon or a MultiPolygon"
    assert isinstance(geometry.get("coordinates"), list), "a geometry has coordinates"
    rings = geometry["coordinates"]
    for _ in range(GEOMETRIES[geometry["type"]] - 1):
        rings = [ring for polygon in rings for ring in polygon]
    assert rings, "a polygon has a ring"
    for ring in rings:
        assert len(ring) >= 4, "a ring has at least four positions"
        assert all(len(position) == 2 for position in ring), "a position is x and y"
        assert all(_is_number(value) for position in ring for value in position), "coordinates are finite numbers"
        assert ring[0] == ring[-1], "a ring is closed"


def _check_promised_feature(feature: dict[str, Any]) -> None:
    assert isinstance(feature.get("id"), str), "an id is a UUID string"
    try:
        assert str(uuid.UUID(feature["id"])) == feature["id"], "an id is a UUID in its canonical form"
    except ValueError as error:
        raise AssertionError("an id is a UUID string") from error
    assert feature["geometry"]["type"] == "Polygon", "a cell is a Polygon"
    decimals = [value for ring in feature["geometry"]["coordinates"] for point in ring for value in point]
    assert all(round(value, MAX_DECIMALS) == value for value in decimals), "coordinates have 2 decimals"
    properties = feature["properties"]
    assert properties.get("objectType") == "detection", "objectType is detection"
    assert not {"type", "metadata"} & set(properties), "properties has no type and no metadata"
    _check_classification(properties.get("classification"))
    measurements = properties.get("measurements")
    assert isinstance(measurements, dict), "measurements is an object"
    assert all(_is_number(value) for value in measurements.values()), "measurements are finite numbers"
    assert "Class probability" not in measurements, "QuPath ignores the value of 'Class probability'"


def _check_classification(classification: Any) -> None:
    assert isinstance(classification, dict), "a cell has a classification"
    name, color = classification.get("name"), classification.get("color")
    assert isinstance(name, str), "a class has a name"
    assert name, "a class has a name"
    assert "\n" not in name, "a class name is one line"
    assert all(part.strip() for part in name.split(":")), "a class name has no empty part"
    assert isinstance(color, list), "a color is three numbers"
    assert len(color) == 3, "a color is three numbers"
    assert all(isinstance(value, int) and 0 <= value <= 255 for value in color), "a color is 0 to 255"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
