"""Segmentations, parametric maps and structured reports of a result, read again by highdicom and dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from dicom_results import MASK_DOWNSAMPLE, REGION_L0, made_areas, made_cells
from dicom_slide import write_dicom_slide
from slidecascade.cli import main
from slidecascade.exports.parametricmap import PADDING
from slidecascade.outputs.cells.heatmap import compute

NOT_OURS = (
    "<Laterality>",  # depends on the body part, which the slide does not state
    "<CommonZCoordinateValue>",  # asked for in 2D annotations too
    "<ImageOrientationPatient>",  # of patients; the segmentation lies on a slide and has ImageOrientationSlide
    "<SliceThickness>",  # the depth of field of a slide that is not DICOM is not known
)
"""What dciodvfy reports of correct objects."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (40, 50, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    tmp_path.joinpath("slide").mkdir()
    return write_dicom_slide(tmp_path / "slide", pixels)[0]


@pytest.fixture
def worklist(tmp_path: Path) -> Path:
    path = tmp_path / "worklist.yaml"
    item = {"StudyInstanceUID": "1.2.3.4", "PatientID": "P17", "PatientName": "Doe^Jane", "AccessionNumber": "A7"}
    path.write_text(yaml.safe_dump(item | {"ContainerIdentifier": "C-9"}))
    return path


def export(results: Path, form: str, *options: object) -> Path:
    target = results.parent / f"{form}.dcm"
    arguments = ["export", str(results), "--format", form, "--out", str(target)]
    assert main([*arguments, *(str(option) for option in options)]) == 0
    return target


def position_mm(source: Dataset, x_l0: float, y_l0: float) -> NDArray[np.float64]:
    """highdicom's place of a level-0 position in the slide's coordinate system."""
    transformer = highdicom.spatial.PixelToReferenceTransformer.for_image(source, for_total_pixel_matrix=True)
    # The standard's transformer takes whole pixels; positions between them follow from its affine matrix.
    found: NDArray[np.float64] = transformer.affine @ np.array([x_l0 - 0.5, y_l0 - 0.5, 0, 1])
    return found[:3]


def test_highdicom_reads_the_same_mask_at_the_same_place(source: Path, tmp_path: Path) -> None:
    """A segment for each class; empty tiles are left out; the first pixel lies where the mask's does."""
    mask = made_areas(tmp_path / "areas")
    found = highdicom.seg.segread(export(tmp_path / "areas", "dicom-seg", "--dicom-source", source))
    assert [found.get_segment_description(number).SegmentLabel for number in (1, 2, 3)] == [
        "Gland",
        "Fat & <skin>",
        "None",
    ]
    matrix = found.get_total_pixel_matrix(combine_segments=True)
    np.testing.assert_array_equal(matrix, mask)
    assert found.NumberOfFrames == 4  # of 2 x 2 tiles and 3 segments
    slide = dcmread(source)
    assert found.FrameOfReferenceUID == slide.FrameOfReferenceUID
    corner_l0 = (REGION_L0.x + MASK_DOWNSAMPLE / 2, REGION_L0.y + MASK_DOWNSAMPLE / 2)
    np.testing.assert_allclose(position_mm(found, 0.5, 0.5), position_mm(slide, *corner_l0), atol=1e-9)
    end_l0 = (REGION_L0.x + 2 * 200.5, REGION_L0.y + 2 * 100.5)
    np.testing.assert_allclose(position_mm(found, 200.5, 100.5), position_mm(slide, *end_l0), atol=1e-9)
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == slide.SeriesInstanceUID


@pytest.mark.parametrize("name", ["steatosis", "immune"])
def test_highdicom_reads_the_same_values_at_the_same_place(source: Path, tmp_path: Path, name: str) -> None:
    """32-bit floats as the heatmap has them; what it does not state has the padding value."""
    analysis = made_cells(tmp_path / "cells")
    options = ("--dicom-source", source, "--heatmap", name)
    found = highdicom.imread(export(tmp_path / "cells", "dicom-pm", *options))
    expected = compute(analysis, next(spec for spec in analysis.heatmaps if spec.name == name))
    assert np.isnan(expected.values).any()
    values = found.get_total_pixel_matrix(apply_real_world_transform=False, dtype=np.float32)
    np.testing.assert_array_equal(values, np.nan_to_num(expected.values, nan=PADDING))
    slide, side_l0 = dcmread(source), expected.grid_um / analysis.mpp
    centre_l0 = (REGION_L0.x + side_l0 / 2, REGION_L0.y + side_l0 / 2)
    np.testing.assert_allclose(position_mm(found, 0.5, 0.5), position_mm(slide, *centre_l0), atol=1e-9)
    mapping = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    unit = mapping.MeasurementUnitsCodeSequence[0].CodeValue
    assert unit == ("/mm2" if name == "immune" else "1")


def numbers_of(path: Path) -> dict[str, dict[str, Any]]:
    """By tracking identifier, the figures of each measurement group as highdicom reads them."""
    report = highdicom.sr.srread(path)
    found = {}
    for group in report.content.get_image_measurement_groups():
        figures = {item.name.meaning: (item.value, item.unit.value) for item in group.get_measurements()}
        found[group.tracking_identifier] = figures
    return found


def test_highdicom_reads_the_same_figures(source: Path, tmp_path: Path) -> None:
    """Counts, fractions with both numbers, densities and areas, by class; nothing is final."""
    analysis = made_cells(tmp_path / "cells")
    path = export(tmp_path / "cells", "dicom-sr", "--dicom-source", source)
    groups = numbers_of(path)
    for end in analysis.classes.ends:
        assert groups[end.name]["Number of objects"] == (12, "1")
    steatosis = groups["Hepatocyte: Steatosis"]
    assert steatosis["Fraction of objects"] == (pytest.approx(100 / 3, abs=1e-3), "%")
    assert steatosis["Numerator of the fraction"] == (12, "1")
    assert steatosis["Denominator of the fraction"] == (36, "1")
    assert groups["Analysed region"]["Area"] == (pytest.approx(0.098), "mm2")
    report = dcmread(path)
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("PARTIAL", "UNVERIFIED", "PRELIMINARY")
    written = report.to_json()
    assert "Research Use Only" in written
    assert f"nuclei sha256 {'a' * 64}" in written
    assert dcmread(source).SOPInstanceUID in written


def test_areas_are_reported(source: Path, tmp_path: Path) -> None:
    """In square millimetres by class."""
    made_areas(tmp_path / "areas")
    groups = numbers_of(export(tmp_path / "areas", "dicom-sr", "--dicom-source", source))
    assert groups["Gland"]["Area"] == (pytest.approx(0.0188), "mm2")
    assert groups["Gland"]["Objects per area of tissue"] == (1.5, "/mm2")


def test_a_fraction_of_nothing_has_no_value(source: Path, tmp_path: Path) -> None:
    """The report says that it would divide by zero, instead of 0 %."""
    made_cells(tmp_path / "cells")
    path = tmp_path / "cells" / "summary.json"
    text = path.read_text().replace('"value":0.333333', '"value":null')
    assert '"value":null' in text
    path.write_text(text)
    report = dcmread(export(tmp_path / "cells", "dicom-sr", "--dicom-source", source))
    assert "Divide by zero" in str(report)


@pytest.mark.parametrize("form", ["dicom-ann", "dicom-sr", "dicom-seg", "dicom-pm"])
def test_configured_codes_replace_private_ones(source: Path, tmp_path: Path, form: str) -> None:
    """The rest is private, and the object says so."""
    results = tmp_path / "results"
    name = "Gland" if form == "dicom-seg" else "Hepatocyte: Steatosis"
    made_areas(results) if form == "dicom-seg" else made_cells(results)
    key = "heatmap.steatosis" if form == "dicom-pm" else f"class.{name}"
    codes = tmp_path / "codes.yaml"
    codes.write_text(yaml.safe_dump({key: {"value": "L-1", "scheme": "99LAB", "meaning": "Ours"}}))
    found = dcmread(export(results, form, "--dicom-source", source, "--dicom-codes", codes))
    assert "99LAB" in str(found)
    assert found.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99SLIDECASCADE"
    assert (found.PatientID, found.AccessionNumber) == ("P17", "A99")


@pytest.mark.parametrize("form", ["dicom-ann", "dicom-sr", "dicom-seg", "dicom-pm"])
def test_a_worklist_names_patient_and_specimen_of_other_slides(worklist: Path, tmp_path: Path, form: str) -> None:
    """All objects of a slide that is not DICOM have the same frame of reference, from its corner."""
    results = tmp_path / "results"
    made_areas(results) if form == "dicom-seg" else made_cells(results)
    found = dcmread(export(results, form, "--dicom-worklist", worklist))
    assert (found.PatientID, found.StudyInstanceUID, found.AccessionNumber) == ("P17", "1.2.3.4", "A7")
    assert found.ContainerIdentifier == "C-9"
    assert "ReferencedSeriesSequence" not in found
    if form in ("dicom-seg", "dicom-pm"):
        origin = found.TotalPixelMatrixOriginSequence[0]
        pixel_mm = float(found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0])
        assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx(60 * 0.0005 + pixel_mm / 2)
    if form == "dicom-ann":
        group = highdicom.ann.annread(results.parent / "dicom-ann.dcm").get_annotation_groups()[0]
        outline = group.get_graphic_data(coordinate_type="3D")[0]
        assert outline.shape[1] == 3
        assert np.all((outline[:, 0] >= 0.02) & (outline[:, 0] <= 0.4))  # millimetres


def test_an_item_of_a_dicom_worklist_names_them_too(source: Path, tmp_path: Path) -> None:
    """As a modality worklist server keeps it."""
    made_cells(tmp_path / "cells")
    item = Dataset()
    item.file_meta = dcmread(source).file_meta
    item.PatientID, item.PatientName, item.StudyInstanceUID, item.AccessionNumber = "P5", "Roe^R", "1.2.9", "A5"
    item.SOPClassUID, item.SOPInstanceUID = "1.2.840.10008.5.1.4.31", "1.2.10"
    item.save_as(tmp_path / "item.wl", enforce_file_format=True)
    found = dcmread(export(tmp_path / "cells", "dicom-sr", "--dicom-worklist", tmp_path / "item.wl"))
    assert (found.PatientID, str(found.PatientName), found.AccessionNumber) == ("P5", "Roe^R", "A5")
    assert found.StudyInstanceUID == "1.2.9"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("item.yaml", "PatientID: P17", "StudyInstanceUID"),
        ("item.yaml", "StudyInstanceUID: '1.2'\nSex: F", "Sex"),
        ("item.yaml", "[", "cannot be read"),
        ("item.wl", "StudyInstanceUID: '1.2'", "cannot be read"),
    ],
)
def test_an_unusable_worklist_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    """With the field at fault."""
    made_cells(tmp_path / "cells")
    (tmp_path / name).write_text(text)
    command = ["export", str(tmp_path / "cells"), "--format", "dicom-sr", "--out", str(tmp_path / "out.dcm")]
    assert main([*command, "--dicom-worklist", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err


def test_attributes_in_json_name_a_slide(source: Path, tmp_path: Path) -> None:
    """As a DICOMweb server states them."""
    made_cells(tmp_path / "cells")
    head = dcmread(source, stop_before_pixels=True)
    (tmp_path / "slide.json").write_text(head.to_json())
    found = dcmread(export(tmp_path / "cells", "dicom-sr", "--dicom-source", tmp_path / "slide.json"))
    assert (found.PatientID, found.StudyInstanceUID) == (head.PatientID, head.StudyInstanceUID)


@pytest.mark.parametrize("by", ["source", "worklist"])
@pytest.mark.parametrize("form", ["dicom-ann", "dicom-sr", "dicom-seg", "dicom-pm"])
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(source: Path, worklist: Path, tmp_path: Path, form: str, by: str) -> None:
    """Other than those that are not the object's."""
    results = tmp_path / "results"
    made_areas(results) if form == "dicom-seg" else made_cells(results)
    path = export(results, form, f"--dicom-{by}", source if by == "source" else worklist)
    report = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    errors = [line for line in report.stderr.splitlines() if line.startswith("Error")]
    assert [line for line in errors if not any(name in line for name in NOT_OURS)] == []


def test_what_is_missing_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mask, values of a heatmap, an unknown heatmap, a slide that states no place, broken codes."""
    results, target = tmp_path / "cells", tmp_path / "out.dcm"
    made_cells(results)
    command = ["export", str(results), "--out", str(target), "--dicom-source", str(source)]
    assert main([*command, "--format", "dicom-seg"]) == 2
    assert "mask.tiff" in capsys.readouterr().err
    assert main([*command, "--format", "dicom-pm", "--heatmap", "fat"]) == 2
    assert "steatosis, immune" in capsys.readouterr().err
    (results / "heatmaps" / "steatosis.tiff").write_bytes(b"II*\0")
    assert main([*command, "--format", "dicom-pm"]) == 2
    assert "steatosis.tiff" in capsys.readouterr().err
    (tmp_path / "codes.yaml").write_text("class.Immune: {value: L-1}")
    assert main([*command, "--format", "dicom-sr", "--dicom-codes", str(tmp_path / "codes.yaml")]) == 2
    assert "class.Immune.scheme" in capsys.readouterr().err
    slide = dcmread(source)
    del slide.FrameOfReferenceUID
    slide.save_as(source)
    assert main([*command, "--format", "dicom-pm", "--heatmap", "immune"]) == 2
    assert "FrameOfReferenceUID" in capsys.readouterr().err
    assert not target.exists()
