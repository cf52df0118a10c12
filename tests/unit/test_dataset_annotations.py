"""Annotation files: QuPath GeoJSON, ASAP XML, Aperio ImageScope XML, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from slidecascade.errors import UnusableDataError
from slidecascade_evaluation import geojson
from slidecascade_evaluation.annotation import Annotation
from slidecascade_training.datasets import xmlfile
from slidecascade_training.datasets.specimens import Specimen

SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]
HOLE = [[12, 12], [14, 12], [14, 14], [12, 14], [12, 12]]
ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
<Annotation Name="a" Type="Polygon" PartOfGroup="Tumour" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="10" Y="10"/><Coordinate Order="1" X="20,0" Y="10"/>
<Coordinate Order="2" X="20" Y="20"/><Coordinate Order="3" X="10" Y="20"/></Coordinates></Annotation>
<Annotation Name="b" Type="Dot" PartOfGroup="Stroma"><Coordinates>
<Coordinate Order="0" X="3.5" Y="4.5"/></Coordinates></Annotation>
<Annotation Name="c" Type="PointSet" PartOfGroup="None"><Coordinates>
<Coordinate Order="0" X="1" Y="1"/><Coordinate Order="1" X="2" Y="2"/></Coordinates></Annotation>
</Annotations><AnnotationGroups><Group Name="Tumour" PartOfGroup="None"/></AnnotationGroups></ASAP_Annotations>"""
APERIO = """<Annotations MicronsPerPixel="0.25">
<Annotation Id="1" Name="" Type="4"><Attributes><Attribute Name="Description" Value="Tumour"/></Attributes>
<Regions><Region Id="1" Type="0" NegativeROA="0"><Vertices><Vertex X="0" Y="0" Z="0"/><Vertex X="40" Y="0" Z="0"/>
<Vertex X="40" Y="40" Z="0"/><Vertex X="0" Y="40" Z="0"/></Vertices></Region>
<Region Id="2" Type="0" NegativeROA="1"><Vertices><Vertex X="10" Y="10"/><Vertex X="20" Y="10"/>
<Vertex X="20" Y="20"/><Vertex X="10" Y="20"/></Vertices></Region></Regions></Annotation>
<Annotation Id="2" Name="Stroma"><Regions><Region Id="3" Type="2"><Vertices><Vertex X="50" Y="50"/>
<Vertex X="70" Y="60"/></Vertices></Region><Region Id="4" Type="4"><Vertices><Vertex X="1" Y="1"/>
<Vertex X="9" Y="9"/></Vertices></Region></Regions></Annotation></Annotations>"""
BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><ASAP_Annotations><Annotations Name="&c;"/></ASAP_Annotations>"""
FILE_READER = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>"""


def _feature(geometry: object, classification: object = "Tumour", **more: object) -> dict[str, object]:
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": classification}, **more}


def _parsed(root: object) -> tuple[Annotation, ...]:
    return geojson.parse(json.dumps(root).encode(), "a.geojson")[0]


@pytest.mark.parametrize("wrap", ["collection", "feature", "array"])
def test_every_root_that_qupath_writes_is_read(wrap: str) -> None:
    """A collection, a single feature, an array of features."""
    feature = _feature({"type": "Polygon", "coordinates": [SQUARE, HOLE]})
    root = {
        "collection": {"type": "FeatureCollection", "features": [feature]},
        "feature": feature,
        "array": [feature],
    }
    (annotation,) = _parsed(root[wrap])
    assert annotation.class_name == "Tumour"
    assert [len(ring) for ring in annotation.rings_l0] == [4, 4]
    assert annotation.centres_l0.tolist() == [[15.0, 15.0]]
    assert annotation.contains(np.array([[11.0, 11.0], [13.0, 13.0], [30.0, 11.0]])).tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ("Tumour", "Tumour"),
        ({"name": "Tumour: Positive", "color": [1, 2, 3]}, "Tumour: Positive"),
        ({"names": ["Tumour", "Positive"], "color": [1, 2, 3]}, "Tumour: Positive"),
        (None, None),
    ],
)
def test_a_class_is_read_in_every_form(classification: object, name: str | None) -> None:
    """A text, a name, the names of a derived class, or none."""
    assert _parsed(_feature({"type": "Point", "coordinates": [1, 2]}, classification))[0].class_name == name


def test_points_multipolygons_nuclei_and_lines() -> None:
    """Several points are one object, several polygons several; a cell counts by its nucleus, a line not at all."""
    nucleus = {"type": "Polygon", "coordinates": [HOLE]}
    features = [
        _feature({"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}),
        _feature({"type": "MultiPolygon", "coordinates": [[SQUARE], [HOLE]]}),
        _feature({"type": "Polygon", "coordinates": [SQUARE]}, nucleusGeometry=nucleus),
        _feature({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}),
    ]
    found, left_out = geojson.parse(json.dumps(features).encode(), "a.geojson")
    assert [item.centres_l0.tolist() for item in found] == [
        [[1, 2], [3, 4]],
        [[15, 15]],
        [[13, 13]],
        [[13, 13]],
    ]
    assert left_out == 1


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "7",
        '"text"',
        "null",
        "[7]",
        "{}",
        '{"type": "FeatureCollection"}',
        '{"type": "Topology"}',
        '{"type": "FeatureCollection", "features": 7}',
        '{"type": "Feature", "geometry": null}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[1, "a"], [3, 4], [5, 6]]]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [NaN, 1]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1e999]}}',
        '{"type": "Feature", "properties": {"classification": 7}, "geometry": {"type": "Point"}}',
        "[" * 5000 + "]" * 5000,
    ],
)
def test_what_is_not_geojson_is_refused_by_name(text: str) -> None:
    """One sentence with the file's name, whatever is wrong inside."""
    with pytest.raises(UnusableDataError, match=r"^a\.geojson .*export the annotations again\.$"):
        geojson.parse(text.encode(), "a.geojson")


def test_text_is_utf8_with_or_without_a_mark() -> None:
    """Editors on Windows put a byte order mark first; another encoding is called by its name."""
    text = '{"type": "Point", "coordinates": [1, 2]}'
    (annotation,), _ = geojson.parse(text.encode("utf-8-sig"), "a.geojson")
    assert annotation.points_l0.tolist() == [[1, 2]]
    for wrong in (text.encode("utf-16"), '{"name": "Höhe"}'.encode("latin-1")):
        with pytest.raises(UnusableDataError, match=r"^a\.geojson is not text in UTF-8"):
            geojson.parse(wrong, "a.geojson")


def test_asap() -> None:
    """The group is the class, "None" is none, and a decimal comma is a decimal point."""
    found, left_out = xmlfile.parse(ASAP.encode(), "a.xml")
    assert [item.class_name for item in found] == ["Tumour", "Stroma", None]
    assert found[0].centres_l0.tolist() == [[15, 15]]
    assert [item.centres_l0.tolist() for item in found[1:]] == [[[3.5, 4.5]], [[1, 1], [2, 2]]]
    assert left_out == 0


def test_aperio() -> None:
    """The layer's name or description is the class, a negative region is a hole, a box makes an ellipse."""
    found, left_out = xmlfile.parse(APERIO.encode(), "a.xml")
    assert [item.class_name for item in found] == ["Tumour", "Stroma"]
    assert found[0].contains(np.array([[5.0, 5.0], [15.0, 15.0]])).tolist() == [True, False]
    assert found[1].centres_l0[0] == pytest.approx([60, 55])
    assert found[1].contains(np.array([[60.0, 51.0], [51.0, 51.0]])).tolist() == [True, False]
    assert left_out == 1  # the ruler


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (BOMB, "document type"),
        (FILE_READER, "document type"),
        ("<Annotations><Annotation>", "well-formed"),
        ("", "well-formed"),
        ("<html/>", "neither of ASAP"),
        (ASAP.replace('X="10"', 'X="ten"'), "position"),
        (ASAP.replace('X="10" Y', "Y", 1).replace('Y="10"', "", 1), "position"),
        (ASAP.replace('X="10"', 'X="inf"'), "position"),
    ],
)
def test_wrong_xml_is_refused(text: str, reported: str) -> None:
    """Entities are refused before they are expanded, the rest by what is wrong with it."""
    with pytest.raises(UnusableDataError, match=rf"^a\.xml .*{reported}"):
        xmlfile.parse(text.encode(), "a.xml")


def test_packed_files_are_unpacked_and_damaged_ones_refused(tmp_path: Path) -> None:
    """``.geojson.gz`` as QuPath writes it; a truncated one is reported."""
    packed = gzip.compress(json.dumps(_feature({"type": "Point", "coordinates": [1, 2]})).encode())
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(packed)
    assert len(Specimen(tmp_path / "a.png", path).annotations()[0]) == 1
    path.write_bytes(packed[:40])
    with pytest.raises(UnusableDataError, match="cannot be read"):
        Specimen(tmp_path / "a.png", path).annotations()


def test_what_qupath_itself_wrote(shared_data: Path) -> None:
    """Polygons, a brush, a rectangle, and a classified cell with its nucleus."""
    for path in sorted((shared_data / "geojson").glob("*.json")):
        found, left_out = geojson.parse(path.read_bytes(), path.name)
        assert found
        assert left_out == 0
        assert all(item.is_polygon for item in found)
        if "brush" not in path.name:  # which is bent around its centre
            assert all(item.contains(item.centres_l0).all() for item in found)
