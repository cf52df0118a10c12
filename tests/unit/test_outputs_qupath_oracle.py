"""The oracle of QuPath's rules must itself notice every broken rule."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qupath import check_feature_collection, check_importable

GOOD: dict[str, Any] = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": "2f1a3c5e-0000-5000-8000-000000000001",
            "geometry": {"type": "Polygon", "coordinates": [[[1.25, 2], [3, 2], [3, 4], [1.25, 2]]]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": "Hepatocyte: Normal", "color": [0, 158, 115]},
                "measurements": {"Area µm^2": 1.5},
            },
        }
    ],
}


def _feature(document: Any) -> Any:
    return document["features"][0]


def _properties(document: Any) -> Any:
    return _feature(document)["properties"]


def _geometry(document: Any) -> Any:
    return _feature(document)["geometry"]


# What is wrong: how to break the good document, and words of the rule that must be named.
BROKEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "bare array": (lambda d: d.update(type="Feature"), "root"),
    "crs": (lambda d: d.update(crs=None), "crs"),
    "features null": (lambda d: d.update(features=None), "features is a list"),
    "not a feature": (lambda d: _feature(d).update(type="feature"), "says that it is one"),
    "no id": (lambda d: _feature(d).pop("id"), "UUID"),
    "number as id": (lambda d: _feature(d).update(id=7), "UUID"),
    "id that is no UUID": (lambda d: _feature(d).update(id="cell-1"), "UUID"),
    "id in capitals": (lambda d: _feature(d).update(id=_feature(d)["id"].upper()), "canonical"),
    "same id twice": (lambda d: d["features"].append(_feature(d)), "unique"),
    "no geometry": (lambda d: _feature(d).update(geometry=None), "geometry"),
    "collection": (lambda d: _geometry(d).update(type="GeometryCollection"), "Polygon"),
    "multipolygon": (
        lambda d: _geometry(d).update(type="MultiPolygon", coordinates=[_geometry(d)["coordinates"]]),
        "a cell is a Polygon",
    ),
    "no ring": (lambda d: _geometry(d).update(coordinates=[]), "has a ring"),
    "open ring": (lambda d: _geometry(d)["coordinates"][0].append([9, 9]), "closed"),
    "short ring": (lambda d: _geometry(d).update(coordinates=[[[1, 2], [3, 4], [1, 2]]]), "four"),
    "3-D": (lambda d: _geometry(d)["coordinates"][0][1].append(0), "x and y"),
    "NaN coordinate": (lambda d: _geometry(d)["coordinates"][0][1].__setitem__(0, float("nan")), "NaN"),
    "null coordinate": (lambda d: _geometry(d)["coordinates"][0][1].__setitem__(0, None), "finite"),
    "3 decimals": (lambda d: _geometry(d)["coordinates"][0][1].__setitem__(0, 3.125), "2 decimals"),
    "properties null": (lambda d: _feature(d).update(properties=None), "properties"),
    "annotation": (lambda d: _properties(d).pop("objectType"), "objectType"),
    "metadata": (lambda d: _properties(d).update(metadata={}), "metadata"),
    "no class": (lambda d: _properties(d).update(classification=None), "classification"),
    "no color": (lambda d: _properties(d)["classification"].pop("color"), "color"),
    "no class name": (lambda d: _properties(d)["classification"].pop("name"), "name"),
    "empty class name": (lambda d: _properties(d)["classification"].update(name=""), "name"),
    "empty leaf": (lambda d: _properties(d)["classification"].update(name="Hepatocyte: "), "empty part"),
    "two lines": (lambda d: _properties(d)["classification"].update(name="a\nb"), "one line"),
    "two colors": (lambda d: _properties(d)["classification"].update(color=[1, 2]), "three"),
    "color 256": (lambda d: _properties(d)["classification"].update(color=[1, 2, 256]), "255"),
    "fractional color": (lambda d: _properties(d)["classification"].update(color=[1, 2, 0.5]), "255"),
    "measurement list": (lambda d: _properties(d).update(measurements=[]), "measurements"),
    "NaN": (lambda d: _properties(d)["measurements"].update(a=float("nan")), "NaN"),
    "infinite": (lambda d: _properties(d)["measurements"].update(a=float("inf")), "Infinity"),
    "null": (lambda d: _properties(d)["measurements"].update(a=None), "finite"),
    "text": (lambda d: _properties(d)["measurements"].update(a="1"), "finite"),
    "special name": (lambda d: _properties(d)["measurements"].update({"Class probability": 1}), "ignores"),
}


def test_the_good_document_passes() -> None:
    """A document that keeps every rule passes, and its features are counted."""
    assert check_feature_collection(json.dumps(GOOD)) == 1


@pytest.mark.parametrize("wrong", BROKEN)
def test_each_broken_rule_is_noticed(wrong: str) -> None:
    """Breaking one rule is refused with that rule."""
    breaks, words = BROKEN[wrong]
    document = copy.deepcopy(GOOD)
    breaks(document)

    with pytest.raises(AssertionError, match=words):
        check_feature_collection(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[]", "root"),
        ('{"type": "Feature"}\n{"type": "Feature"}', "no JSON"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
)
def test_text_that_is_not_a_collection_is_detected(text: str, words: str) -> None:
    """Nothing, an array, lines of JSON and a doubled name are refused."""
    with pytest.raises(AssertionError, match=words):
        check_feature_collection(text)


def test_the_reading_rules_accept_what_qupath_wrote(shared_data: Path) -> None:
    """Files exported by QuPath itself (an old version: ids that are no UUIDs, lists of measurements) pass."""
    files = sorted((shared_data / "geojson").glob("*.json"))

    assert files
    for file in files:
        assert check_importable(file.read_bytes()) >= 1, file.name


@pytest.mark.parametrize("wrong", ["open ring", "properties null", "no color", "null coordinate"])
def test_the_reading_rules_refuse_what_qupath_fails_on(wrong: str) -> None:
    """What makes QuPath's import fail is refused by the reading rules alone."""
    document = copy.deepcopy(GOOD)
    BROKEN[wrong][0](document)

    with pytest.raises(AssertionError):
        check_importable(json.dumps(document["features"]))
