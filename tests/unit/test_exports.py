"""Results in the formats of other programs, read again as those programs read them."""

from __future__ import annotations

import gzip
import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

import qupath
from made_analysis import CLASSES, make_analysis
from slidecascade.cells.result import Analysis
from slidecascade.cli import main
from slidecascade.exports import folder as folders
from slidecascade.exports import shapes as batches
from slidecascade.outputs.cells import geojson, geoparquet
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.gzipped import gzipped
from slidecascade.outputs.summary import text

COLORS = {end.name: end.color for end in CLASSES}
CELLS = 60


def portions(analysis: Analysis) -> list[Analysis]:
    """The cells in three parts, as fields have them."""
    parts = np.array_split(np.arange(len(analysis.instances)), 3)
    flags = [np.isin(np.arange(len(analysis.instances)), part) for part in parts]
    return [
        replace(analysis, instances=analysis.instances.take(keep), class_index=analysis.class_index[keep])
        for keep in flags
    ]


@pytest.fixture
def analysis() -> Analysis:
    return make_analysis(CELLS)


@pytest.fixture
def results(tmp_path: Path, analysis: Analysis) -> Path:
    """A folder as `jobs fetch` leaves it."""
    path = tmp_path / "results"
    path.mkdir()
    tables = [geoparquet.table(part) for part in portions(analysis)]
    path.joinpath("cells.parquet").write_bytes(b"".join(geoparquet.stream(tables, tables[0], provenance=b"{}")))
    path.joinpath("cells.geojson.gz").write_bytes(b"".join(gzipped(geojson.encode(analysis))))
    path.joinpath("summary.json").write_bytes(text(summarise(analysis)))
    return path


def areas(path: Path) -> Path:
    """A folder of two areas, the first of which has a hole; positions count from the scanned part's corner."""
    path.mkdir()
    numbers = orjson.loads(text(summarise(make_analysis(5))))
    numbers |= {"kind": "areas", "pipeline": "glands", "counts": {"Gland": 2, "Fat & <skin>": 0}}
    numbers["slide"]["bounds"] = {"x": 100, "y": 50, "width": 4000, "height": 4000}
    path.joinpath("summary.json").write_bytes(orjson.dumps(numbers))
    square = [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]
    hole = [[10, 10], [10, 20], [20, 20], [20, 10], [10, 10]]
    features = [
        {
            "type": "Feature",
            "id": str(uuid.UUID(int=index)),
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": "Gland", "color": [1, 2, 3]},
                "measurements": {"Area µm^2": 7.5},
            },
        }
        for index, rings in enumerate(([square, hole], [square]), start=1)
    ]
    head = b'{"type":"FeatureCollection","slidecascade":{"origin":"bounds"},"features":[\n'
    body = b",\n".join(orjson.dumps(feature) for feature in features)
    path.joinpath("areas.geojson").write_bytes(head + body + b"\n]}\n")
    return path


def export(source: Path, form: str, target: Path) -> Path:
    assert main(["export", str(source), "--format", form, "--out", str(target)]) == 0
    return target


def features(analysis: Analysis) -> dict[str, Any]:
    """What the result's own GeoJSON has, by id."""
    return {item["id"]: item for item in orjson.loads(b"".join(geojson.encode(analysis)))["features"]}


def dsa_elements(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What the Digital Slide Archive makes of GeoJSON: an element for each outline, with known properties."""
    known = {"id", "label", "group", "user", "lineColor", "lineWidth", "fillColor"}
    elements = []
    for feature in document["features"]:
        properties = feature["properties"]
        assert "type" not in properties  # any text but the name of a shape loses the element
        outer, *holes = ([[x, y, 0] for x, y in ring[:-1]] for ring in feature["geometry"]["coordinates"])
        element = {name: value for name, value in properties.items() if name in known}
        elements.append(element | {"type": "polyline", "closed": True, "points": outer, "holes": holes})
    return elements


def check_dsa_schema(element: dict[str, Any]) -> None:
    """The part of large_image's annotation schema that applies to these elements."""
    color = re.compile(r"^(#[0-9a-fA-F]{3,6}|rgb\(\d+,\s*\d+,\s*\d+\)|rgba\(\d+,\s*\d+,\s*\d+,\s*(\d?\.|)\d+\))$")
    assert isinstance(element["label"]["value"], str)
    assert isinstance(element["group"], str)
    assert isinstance(element["user"], dict)
    assert color.match(element["lineColor"])
    assert color.match(element["fillColor"])
    assert element["lineWidth"] >= 0
    for ring in [element["points"], *element["holes"]]:
        assert len(ring) >= 3
        assert ring[0] != ring[-1]


def test_the_digital_slide_archive_keeps_class_and_colour(
    results: Path, analysis: Analysis, tmp_path: Path
) -> None:
    """Class as label and group, colour as line and fill; outlines are those of the result."""
    document = orjson.loads(export(results, "dsa", tmp_path / "dsa.json").read_bytes())
    elements = dsa_elements(document)
    own = features(analysis)
    assert len(elements) == CELLS
    for element, feature in zip(elements, document["features"], strict=True):
        check_dsa_schema(element)
        expected = own[feature["id"]]
        name = expected["properties"]["classification"]["name"]
        red, green, blue = COLORS[name]
        assert element["label"] == {"value": name}
        assert element["group"] == name
        assert element["lineColor"] == f"rgb({red},{green},{blue})"
        assert feature["geometry"] == expected["geometry"]


def test_qupath_reads_the_same_file(results: Path, analysis: Analysis, tmp_path: Path) -> None:
    """Compressed by its name; ids, classes and measurements are those of the result's GeoJSON."""
    content = gzip.decompress(export(results, "dsa", tmp_path / "dsa.geojson.gz").read_bytes())
    assert qupath.check_feature_collection(content) == CELLS
    own = features(analysis)
    for feature in orjson.loads(content)["features"]:
        properties, expected = feature["properties"], own[feature["id"]]["properties"]
        assert properties["classification"] == expected["classification"]
        assert properties["measurements"] == pytest.approx(expected["measurements"], abs=0.006)
        assert properties["user"] == properties["measurements"]


def positions(points: list[ET.Element]) -> NDArray[np.float64]:
    return np.array([(float(point.attrib["X"]), float(point.attrib["Y"])) for point in points])


def open_ring(feature: dict[str, Any]) -> NDArray[np.float64]:
    """The outline of a feature without its repeated end."""
    return np.array(feature["geometry"]["coordinates"][0][:-1])


def asap_rings(root: ET.Element) -> dict[str, NDArray[np.float64]]:
    """The outlines of an ASAP file by name, with the checks whose failure makes ASAP reject it."""
    groups = {group.attrib["Name"] for group in root.findall("AnnotationGroups/Group")}
    rings = {}
    for annotation in root.findall("Annotations/Annotation"):
        assert annotation.attrib["PartOfGroup"] in groups
        assert annotation.attrib["Type"] == "Polygon"
        points = annotation.findall("Coordinates/Coordinate")
        assert [int(point.attrib["Order"]) for point in points] == list(range(len(points)))
        rings[annotation.attrib["Name"]] = positions(points)
    return rings


def test_asap_has_an_annotation_for_each_cell(results: Path, analysis: Analysis, tmp_path: Path) -> None:
    """In the group of its class, which has its colour."""
    root = ET.parse(export(results, "asap", tmp_path / "cells.xml")).getroot()  # noqa: S314
    rings, own = asap_rings(root), features(analysis)
    assert root.tag == "ASAP_Annotations"
    assert set(rings) == set(own)
    for name, ring in rings.items():
        np.testing.assert_allclose(ring, open_ring(own[name]), atol=0.001)
    for annotation in root.findall("Annotations/Annotation"):
        expected = own[annotation.attrib["Name"]]["properties"]["classification"]
        assert annotation.attrib["PartOfGroup"] == expected["name"]
        assert annotation.attrib["Color"] == "#{:02x}{:02x}{:02x}".format(*expected["color"])
    assert [group.attrib["Name"] for group in root.findall("AnnotationGroups/Group")] == list(COLORS)


def test_aperio_has_a_layer_for_each_class(results: Path, analysis: Analysis, tmp_path: Path) -> None:
    """With a region for each of its cells."""
    root = ET.parse(export(results, "aperio", tmp_path / "cells.xml")).getroot()  # noqa: S314
    assert root.tag == "Annotations"
    assert float(root.attrib["MicronsPerPixel"]) == analysis.mpp
    layers = root.findall("Annotation")
    assert [layer.attrib["Name"] for layer in layers] == list(COLORS)
    own = list(features(analysis).values())
    for layer in layers:
        assert layer.attrib["Type"] == "4"
        color = int(layer.attrib["LineColor"])
        assert (color & 255, color >> 8 & 255, color >> 16) == COLORS[layer.attrib["Name"]]
        expected = [
            open_ring(item) for item in own if item["properties"]["classification"]["name"] == layer.attrib["Name"]
        ]
        regions = layer.findall("Regions/Region")
        assert [region.attrib["Id"] for region in regions] == [str(n + 1) for n in range(len(expected))]
        for region, ring in zip(regions, expected, strict=True):
            assert (region.attrib["Type"], region.attrib["NegativeROA"]) == ("0", "0")
            points = positions(region.findall("Vertices/Vertex"))
            np.testing.assert_allclose(points, ring, atol=0.001)


def test_areas_keep_their_holes(tmp_path: Path) -> None:
    """And their positions on the slide, though the result counts from the corner of the scanned part."""
    source = areas(tmp_path / "areas")
    elements = dsa_elements(orjson.loads(export(source, "dsa", tmp_path / "dsa.json").read_bytes()))
    assert [len(element["holes"]) for element in elements] == [1, 0]
    assert elements[0]["points"][0] == [100, 50, 0]
    assert elements[0]["lineColor"] == "rgb(1,2,3)"
    root = ET.parse(export(source, "aperio", tmp_path / "areas.xml")).getroot()  # noqa: S314
    regions = root.findall("Annotation[@Name='Gland']/Regions/Region")
    assert [region.attrib["NegativeROA"] for region in regions] == ["0", "1", "0"]
    assert [layer.attrib["Name"] for layer in root] == ["Gland", "Fat & <skin>"]


def test_asap_rejects_holes_and_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The format cannot express them: a file without them would be wrong."""
    target = tmp_path / "out" / "areas.xml"
    code = main(["export", str(areas(tmp_path / "areas")), "--format", "asap", "--out", str(target)])
    assert code == 2
    assert "holes" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == []


def test_geojson_and_parquet_pass_unchanged(results: Path, tmp_path: Path) -> None:
    """GeoJSON is compressed or decompressed as the name says; Parquet is copied."""
    packed = results / "cells.geojson.gz"
    plain = export(results, "geojson", tmp_path / "cells.geojson").read_bytes()
    assert plain == gzip.decompress(packed.read_bytes())
    assert export(results, "geojson", tmp_path / "again.geojson.gz").read_bytes() == packed.read_bytes()
    copied = export(results, "parquet", tmp_path / "copy.parquet").read_bytes()
    assert copied == (results / "cells.parquet").read_bytes()


def test_spatialdata_gets_names_that_it_accepts(results: Path, analysis: Analysis, tmp_path: Path) -> None:
    """Read by geopandas: a unique instance and polygon for each cell, its shapes in `region`, all values kept."""
    path = export(results, "spatialdata", tmp_path / "cells.spatialdata.parquet")
    frame = geopandas.read_parquet(path).set_index("instance_id")
    plain = geopandas.read_parquet(results / "cells.parquet").set_index("id")
    assert frame.index.is_unique
    assert set(frame.geom_type) == {"Polygon"}
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in frame.columns)
    assert list(frame["region"].unique()) == ["cells"]
    assert len(frame) == len(plain) == len(analysis.class_index)
    assert frame.geometry.geom_equals(plain.geometry.loc[frame.index]).all()
    assert frame["nash-cell_Immune_probability"].equals(
        plain["nash-cell Immune probability"].loc[frame.index].rename("nash-cell_Immune_probability")
    )


def test_run_lengths_pass_unchanged(tmp_path: Path) -> None:
    """Only areas have them."""
    source = areas(tmp_path / "areas")
    source.joinpath("areas_rle.csv").write_bytes(b"id,encoding\nGland,1 3\n")
    assert export(source, "rle", tmp_path / "out.csv").read_bytes() == b"id,encoding\nGland,1 3\n"


def test_a_missing_file_is_named(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do about it."""
    assert main(["export", str(results), "--format", "rle", "--out", str(tmp_path / "x.csv")]) == 2
    assert "no rle file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / "empty"), "--format", "dsa", "--out", str(tmp_path / "x.json")]) == 2
    assert "summary.json" in capsys.readouterr().err


def test_a_truncated_file_is_rejected(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is written."""
    for name in ("cells.parquet", "cells.geojson.gz"):
        path = results / name
        path.write_bytes(path.read_bytes()[:-20])
    for form in ("geojson", "dsa"):
        assert main(["export", str(results), "--format", form, "--out", str(tmp_path / "x.json")]) == 2
        assert "truncated" in capsys.readouterr().err
        assert not (tmp_path / "x.json").exists()


def test_cells_come_in_the_batches_of_the_file(results: Path) -> None:
    """A row group at a time: a slide's cells are never in memory together."""
    assert [len(batch) for batch in batches.shapes(folders.ResultFolder(results))] == [20, 20, 20]


def test_geojson_alone_gives_the_same_shapes(results: Path, tmp_path: Path) -> None:
    """A result without Parquet is exported, too."""
    whole = export(results, "dsa", tmp_path / "a.json").read_bytes()
    (results / "cells.parquet").unlink()
    alone = export(results, "dsa", tmp_path / "b.json").read_bytes()
    first, second = orjson.loads(whole)["features"], orjson.loads(alone)["features"]
    assert [(item["id"], item["geometry"]) for item in first] == [
        (item["id"], item["geometry"]) for item in second
    ]


def test_without_geojson_classes_have_distinct_colours(results: Path, tmp_path: Path) -> None:
    """Parquet states no colours: classes get those of a palette."""
    (results / "cells.geojson.gz").unlink()
    document = orjson.loads(export(results, "dsa", tmp_path / "a.json").read_bytes())
    seen = {item["properties"]["group"]: item["properties"]["lineColor"] for item in document["features"]}
    assert len(set(seen.values())) == len(COLORS)
