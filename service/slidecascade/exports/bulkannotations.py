"""Outlines as DICOM Microscopy Bulk Simple Annotations, a group for each class.

Part 3 of the DICOM standard, A.84 and C.37.1. Coordinates are pixels of the base level's total pixel matrix (2D,
origin VOLUME), which are level-0 pixels. The object inherits patient and study from the slide.

Coordinates are written to temporary files batch by batch and copied from there: in memory are a batch, and 4 bytes
for each cell of a class and measurement.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from slidecascade import __version__
from slidecascade.errors import InvalidRequestError
from slidecascade.exports.dicomsource import read_source
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.exports.shapes import shapes
from slidecascade.geometry import Box
from slidecascade.outputs.gzipped import READ_BYTES
from slidecascade.pipelines.classes import Color

BULK_ANNOTATIONS: Final = "1.2.840.10008.5.1.4.1.1.91.1"
"""Microscopy Bulk Simple Annotations Storage."""
SCHEME: Final = "99SLIDECASCADE"
"""Private codes: classes and measurements of pipelines have no standard ones."""

_UTF8: Final = "ISO_IR 192"
_GROUPS_TAG: Final = 0x006A0002
_GROUPS: Final = b"\x6a\x00\x02\x00SQ\x00\x00\xff\xff\xff\xff"
_GROUPS_END: Final = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_ITEM_END: Final = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
_PATIENT_AND_STUDY: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SPECIMEN: Final = (
    "ContainerIdentifier",
    "IssuerOfTheContainerIdentifierSequence",
    "ContainerTypeCodeSequence",
    "SpecimenDescriptionSequence",
)


def bulk_annotations(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The DICOM file, in pieces.

    Raises:
        InvalidRequestError: the source slide cannot be used, or an outline has holes, which the format has not.
    """
    region = folder.summary.region
    source = read_source(inputs.dicom_source, Box(region.x, region.y, region.width, region.height))
    names = [name for name in folder.classes if folder.summary.counts[name]]
    if not names:
        raise InvalidRequestError("The result has no outlines: a DICOM annotation object needs at least one.")
    colors = folder.colors()
    with tempfile.TemporaryFile() as file:
        # Groups are appended one after another, between the elements with smaller tags and those with larger ones.
        made = _object(folder, source)
        after = made[_GROUPS_TAG:]
        for tag in list(after.keys()):
            del made[tag]
        dcmwrite(file, made, enforce_file_format=True)
        file.seek(0, 2)
        file.write(_GROUPS)
        for number, name in enumerate(names, start=1):
            file.write(_ITEM)
            _write_group(file, folder, name, number=number, color=colors[name])
            file.write(_ITEM_END)
        file.write(_GROUPS_END)
        _append(file, after)
        file.seek(0)
        while piece := file.read(READ_BYTES):
            yield piece


def _object(folder: ResultFolder, source: Dataset) -> Dataset:
    """All of the object but its groups."""
    summary, now = folder.summary, datetime.now(UTC)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = _UTF8
    for name in _PATIENT_AND_STUDY:
        setattr(made, name, source.get(name, ""))
    for name in _SPECIMEN:
        if name in source:
            made[name] = source[name]
    made.SOPClassUID = BULK_ANNOTATIONS
    made.SOPInstanceUID, made.SeriesInstanceUID = _uid(), _uid()
    made.Modality, made.SeriesNumber, made.InstanceNumber = "ANN", 1, 1
    made.Manufacturer, made.ManufacturerModelName = "SlideCascade", summary.pipeline[:64]
    made.DeviceSerialNumber, made.SoftwareVersions = summary.models[0].sha256, __version__
    made.ContentLabel, made.ContentDescription = summary.kind.upper()[:16], summary.research_use_only
    made.ContentCreatorName = ""
    made.ContentDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.ContentTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    made.AnnotationCoordinateType, made.PixelOriginInterpretation = "2D", "VOLUME"
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = source.SeriesInstanceUID, [image]
    made.ReferencedImageSequence, made.ReferencedSeriesSequence = [image], [series]
    return made


def _write_group(file: IO[bytes], folder: ResultFolder, name: str, *, number: int, color: Color) -> None:
    """Append the attributes of one class's group."""
    with tempfile.TemporaryFile() as points, tempfile.TemporaryFile() as indices:
        group = Dataset()
        group.AnnotationGroupNumber, group.AnnotationGroupUID = number, _uid()
        group.AnnotationGroupLabel = name[:64]
        group.AnnotationGroupGenerationType = "AUTOMATIC"
        group.AnnotationGroupAlgorithmIdentificationSequence = [_algorithm(folder)]
        group.AnnotationPropertyCategoryCodeSequence = [_code("91723000", "SCT", "Anatomical structure")]
        group.AnnotationPropertyTypeCodeSequence = [_code(f"class-{number}", SCHEME, name)]
        group.GraphicType, group.AnnotationAppliesToAllOpticalPaths = "POLYGON", "YES"
        group.RecommendedDisplayCIELabValue = cielab(color)
        group.NumberOfAnnotations, measured = _spool(folder, name, points, indices)
        group.PointCoordinatesData, group.LongPrimitivePointIndexList = points, indices
        measurements = [
            _measurement(f"measurement-{place}", title, values)
            for place, (title, values) in enumerate(measured.items(), start=1)
            if not np.isnan(values).all()
        ]
        if measurements:
            group.MeasurementsSequence = measurements
        _append(file, group)


def _append(file: IO[bytes], elements: Dataset) -> None:
    writer = DicomFileLike(file)
    writer.is_little_endian, writer.is_implicit_VR = True, False
    write_dataset(writer, elements, parent_encoding=_UTF8)


def _spool(
    folder: ResultFolder, name: str, points: IO[bytes], indices: IO[bytes]
) -> tuple[int, dict[str, NDArray[np.float32]]]:
    """Write the outlines of a class; how many there are, and their measurements."""
    place, count, written = folder.classes.index(name), 0, 0
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for batch in shapes(folder):
        chosen = batch.of_class(place)
        if chosen.has_holes:
            raise InvalidRequestError("DICOM annotations have no holes, which this result has: export it as dsa.")
        points.write(chosen.vertices.astype("<f4").tobytes())
        # Where a polygon's first value is among the values of all, counted from 1.
        indices.write((2 * chosen.ring_offsets[:-1] + written + 1).astype("<u4").tobytes())
        written += chosen.vertices.size
        count += len(chosen)
        for title, values in chosen.measurements.items():
            parts.setdefault(title, []).append(values.astype("<f4"))
    points.seek(0)
    indices.seek(0)
    return count, {title: np.concatenate(arrays) for title, arrays in parts.items()}


def _measurement(code: str, title: str, values: NDArray[np.float32]) -> Dataset:
    """One measurement of all outlines of a group, those that have none left out."""
    known = ~np.isnan(values)
    stored = Dataset()
    stored.FloatingPointValues = values[known].tobytes()
    if not known.all():
        stored.AnnotationIndexList = (np.flatnonzero(known) + 1).astype("<u4").tobytes()
    measurement = Dataset()
    measurement.ConceptNameCodeSequence = [_code(code, SCHEME, title)]
    is_area = title.endswith("µm^2")
    unit = _code("um2", "UCUM", "square micrometer") if is_area else _code("1", "UCUM", "no units")
    measurement.MeasurementUnitsCodeSequence = [unit]
    measurement.MeasurementValuesSequence = [stored]
    return measurement


def _algorithm(folder: ResultFolder) -> Dataset:
    made = Dataset()
    made.AlgorithmFamilyCodeSequence = [_code("123110", "DCM", "Artificial Intelligence")]
    made.AlgorithmName = folder.summary.pipeline[:64]
    models = folder.summary.models
    made.AlgorithmVersion = ", ".join(f"{model.name} {model.version}" for model in models)[:64]
    made.AlgorithmParameters = "; ".join(f"{model.name} sha256 {model.sha256}" for model in models)
    return made


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning[:64]
    return made


def _uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def cielab(color: Color) -> list[int]:
    """sRGB as CIELab of white D50, scaled to 16 bits as DICOM has it (Part 3, C.10.7.1.1).

    The matrix is that of sRGB adapted to D50 by Bradford's method (ICC's profile of sRGB).
    """
    encoded = np.array(color) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    matrix: Any = [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
    x, y, z = np.array(matrix) @ linear / np.array([0.96422, 1.0, 0.82521])
    fx, fy, fz = (
        value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116 for value in (x, y, z)
    )
    lightness, a, b = 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
    scaled = np.array([lightness / 100, (a + 128) / 255, (b + 128) / 255]) * 65535
    return [int(value) for value in np.clip(np.rint(scaled), 0, 65535)]
