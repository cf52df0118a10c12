"""DICOM annotations of a result, read again by highdicom."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import orjson
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from made_analysis import CLASSES, make_analysis
from slidecascade.cli import main
from slidecascade.exports.dicomobject import cielab
from slidecascade.exports.dicomsource import WHOLE_SLIDE
from slidecascade.outputs.cells import geojson, geoparquet
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.summary import text

CELLS = 60
NOT_OURS = ("<Laterality>", "<CommonZCoordinateValue>")
"""Attributes that dciodvfy reports: the first depends on the slide, the second belongs to 3D and is not there."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    analysis = make_analysis(CELLS)
    rows = geoparquet.table(analysis)
    portions = [rows.slice(0, 25), rows.slice(25)]
    path.joinpath("cells.parquet").write_bytes(b"".join(geoparquet.stream(portions, rows, provenance=b"{}")))
    path.joinpath("cells.geojson").write_bytes(b"".join(geojson.encode(analysis)))
    path.joinpath("summary.json").write_bytes(text(summarise(analysis)))
    return path


def write_source(path: Path, *, sop_class: str = WHOLE_SLIDE, columns: int = 5000) -> Path:
    """The head of a whole slide's base level."""
    slide = Dataset()
    slide.file_meta = FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slide.SOPClassUID, slide.SOPInstanceUID = sop_class, generate_uid()
    slide.PatientName, slide.PatientID, slide.StudyID = "Doe^Jane", "P17", "4"
    slide.StudyInstanceUID, slide.SeriesInstanceUID = generate_uid(), generate_uid()
    slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows = columns, columns
    slide.save_as(path, enforce_file_format=True)
    return path


def export(results: Path, source: Path | None, target: Path) -> int:
    options = [] if source is None else ["--dicom-source", str(source)]
    return main(["export", str(results), "--format", "dicom-ann", "--out", str(target), *options])


def by_class(results: Path) -> dict[str, list[dict[str, Any]]]:
    """The features of the result's GeoJSON by class."""
    found: dict[str, list[dict[str, Any]]] = {}
    for feature in orjson.loads((results / "cells.geojson").read_bytes())["features"]:
        found.setdefault(feature["properties"]["classification"]["name"], []).append(feature)
    return found


def test_highdicom_reads_the_same_outlines_and_measurements(results: Path, tmp_path: Path) -> None:
    """A group for each class; polygons are not closed; measurements are absent where GeoJSON has none."""
    assert export(results, write_source(tmp_path / "slide.dcm"), tmp_path / "cells.dcm") == 0
    annotations = highdicom.ann.annread(tmp_path / "cells.dcm")
    groups, own = annotations.get_annotation_groups(), by_class(results)
    assert [group.label for group in groups] == [end.name for end in CLASSES]
    for number, group in enumerate(groups, start=1):
        features = own[group.label]
        assert (group.number, group.number_of_annotations) == (number, len(features))
        outlines = group.get_graphic_data(coordinate_type="2D")
        for outline, feature in zip(outlines, features, strict=True):
            np.testing.assert_allclose(outline, feature["geometry"]["coordinates"][0][:-1], atol=0.006)
        names, values, units = group.get_measurements()
        assert {unit.value for unit in units} == {"1", "um2"}
        for place, name in enumerate(names):
            numbers = [item["properties"]["measurements"].get(name.meaning, np.nan) for item in features]
            np.testing.assert_allclose(values[:, place], numbers, atol=0.006)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_of_the_object(results: Path, tmp_path: Path) -> None:
    """Laterality depends on the source slide, which states no body part."""
    assert export(results, write_source(tmp_path / "slide.dcm"), tmp_path / "cells.dcm") == 0
    report = subprocess.run(["dciodvfy", str(tmp_path / "cells.dcm")], capture_output=True, text=True, check=False)
    errors = [line for line in report.stderr.splitlines() if line.startswith("Error")]
    assert [line for line in errors if not any(name in line for name in NOT_OURS)] == []
    assert "MicroscopyBulkSimpleAnnotations" in report.stderr


def test_the_object_belongs_to_the_slide(results: Path, tmp_path: Path) -> None:
    """To its patient and study; it refers to the slide and names the models."""
    source = dcmread(write_source(tmp_path / "slide.dcm"))
    assert export(results, tmp_path / "slide.dcm", tmp_path / "cells.dcm") == 0
    found = dcmread(tmp_path / "cells.dcm")
    assert (found.PatientID, found.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert found.ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    algorithm = found.AnnotationGroupSequence[0].AnnotationGroupAlgorithmIdentificationSequence[0]
    assert "a" * 64 in algorithm.AlgorithmParameters
    assert "Research Use Only" in found.ContentDescription


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.2"}, "not a whole slide"),
        ({"columns": 1500}, "beyond the 1500 x 1500"),
    ],
)
def test_another_image_is_rejected(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    """Annotations on the wrong slide would be worse than none."""
    assert export(results, write_source(tmp_path / "slide.dcm", **fields), tmp_path / "cells.dcm") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "cells.dcm").exists()


def test_holes_are_rejected(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The format cannot express them."""
    (results / "cells.parquet").unlink()
    path = results / "cells.geojson"
    head, first, *rest = path.read_bytes().split(b"\n")
    feature = orjson.loads(first.removesuffix(b","))
    rings = feature["geometry"]["coordinates"]
    rings.append(rings[0])
    path.write_bytes(b"\n".join([head, orjson.dumps(feature) + b",", *rest]))
    assert export(results, write_source(tmp_path / "slide.dcm"), tmp_path / "cells.dcm") == 2
    assert "holes" in capsys.readouterr().err


def test_the_slide_is_required(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And must be DICOM."""
    assert export(results, None, tmp_path / "cells.dcm") == 2
    assert "--dicom-source" in capsys.readouterr().err
    assert export(results, results / "cells.geojson", tmp_path / "cells.dcm") == 2
    assert "cannot be read as DICOM" in capsys.readouterr().err


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (213, 94, 0), (0, 114, 178)])
def test_display_colours_are_cielab(color: tuple[int, int, int]) -> None:
    """Of white D50, as ICC's colour management converts them, in 8 bits."""
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        "RGB",
        "LAB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    pixel = ImageCms.applyTransform(Image.new("RGB", (1, 1), color), to_lab)
    assert pixel is not None
    expected = np.asarray(pixel).view(np.int8)[0, 0] + np.array([0, 128, 128])
    expected[0] %= 256
    assert np.abs(np.array(cielab(color)) / 257 - expected).max() <= 1
