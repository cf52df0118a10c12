"""Outlines as DICOM Microscopy Bulk Simple Annotations, a group for each class.

Part 3 of the DICOM standard, A.84 and C.37.1. On a DICOM slide, coordinates are pixels of the base level's total
pixel matrix (2D, origin VOLUME), which are level-0 pixels. On other slides they are millimetres from the slide's
corner (3D), in a frame of reference of its own.

Coordinates are written to temporary files batch by batch and copied from there: in memory are a batch, and 4 bytes
for each cell of a class and measurement.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite

from slidecascade.errors import InvalidRequestError
from slidecascade.exports.dicomcodes import Codes, code, read_codes
from slidecascade.exports.dicomobject import (
    SEQUENCE_END,
    add_label,
    algorithm,
    append,
    append_item,
    begin_sequence,
    cielab,
    new_object,
    new_uid,
    refer_to,
    reference_to,
    split,
)
from slidecascade.exports.dicomsource import DicomSlide, read_slide
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.exports.shapes import shapes
from slidecascade.outputs.gzipped import READ_BYTES
from slidecascade.pipelines.classes import Color

BULK_ANNOTATIONS: Final = "1.2.840.10008.5.1.4.1.1.91.1"
"""Microscopy Bulk Simple Annotations Storage."""
_GROUPS_TAG: Final = 0x006A0002


@dataclass(frozen=True, slots=True)
class _Outlines:
    """The outlines of a result, with what their coordinates are.

    Attributes:
        mm_per_px: None for coordinates in level-0 pixels.
    """

    folder: ResultFolder
    codes: Codes
    mm_per_px: float | None


def bulk_annotations(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The DICOM file, in pieces.

    Raises:
        InvalidRequestError: the source slide cannot be used, or an outline has holes, which the format has not.
    """
    slide = read_slide(inputs, folder.summary)
    outlines = _Outlines(
        folder,
        read_codes(inputs.dicom_codes, folder.classes),
        folder.summary.mpp / 1000 if slide.image is None else None,
    )
    names = [name for name in folder.classes if folder.summary.counts[name]]
    if not names:
        raise InvalidRequestError("The result has no outlines: a DICOM annotation object needs at least one.")
    colors = folder.colors()
    with tempfile.TemporaryFile() as file:
        # Groups are appended one after another, between the elements with smaller tags and those with larger ones.
        made = _object(folder, slide)
        after = split(made, _GROUPS_TAG)
        dcmwrite(file, made, enforce_file_format=True)
        file.seek(0, 2)
        begin_sequence(file, _GROUPS_TAG)
        for number, name in enumerate(names, start=1):
            _write_group(file, outlines, name, number=number, color=colors[name])
        file.write(SEQUENCE_END)
        append(file, after)
        file.seek(0)
        while piece := file.read(READ_BYTES):
            yield piece


def _object(folder: ResultFolder, slide: DicomSlide) -> Dataset:
    """All of the object but its groups."""
    made = new_object(folder.summary, slide, sop_class=BULK_ANNOTATIONS, modality="ANN")
    add_label(made, folder.summary, folder.summary.kind.upper())
    if slide.image is None:
        made.AnnotationCoordinateType = "3D"
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = slide.frame_of_reference, "SLIDE_CORNER"
        return made
    made.AnnotationCoordinateType, made.PixelOriginInterpretation = "2D", "VOLUME"
    made.ReferencedImageSequence = [reference_to(slide.image)]
    refer_to(made, slide.image)
    return made


def _write_group(file: IO[bytes], outlines: _Outlines, name: str, *, number: int, color: Color) -> None:
    """Append the attributes of one class's group."""
    with tempfile.TemporaryFile() as points, tempfile.TemporaryFile() as indices:
        group = Dataset()
        group.AnnotationGroupNumber, group.AnnotationGroupUID = number, new_uid()
        group.AnnotationGroupLabel = name[:64]
        group.AnnotationGroupGenerationType = "AUTOMATIC"
        group.AnnotationGroupAlgorithmIdentificationSequence = [algorithm(outlines.folder.summary)]
        group.AnnotationPropertyCategoryCodeSequence = [code("91723000", "SCT", "Anatomical structure")]
        group.AnnotationPropertyTypeCodeSequence = [outlines.codes.of_class(name)]
        group.GraphicType, group.AnnotationAppliesToAllOpticalPaths = "POLYGON", "YES"
        group.RecommendedDisplayCIELabValue = cielab(color)
        group.NumberOfAnnotations, measured = _spool(outlines, name, points, indices)
        group.PointCoordinatesData, group.LongPrimitivePointIndexList = points, indices
        if outlines.mm_per_px is not None:
            group.CommonZCoordinateValue, group.AnnotationAppliesToAllZPlanes = 0.0, "NO"
        measurements = [
            _measurement(outlines.codes, place, title, values)
            for place, (title, values) in enumerate(measured.items(), start=1)
            if not np.isnan(values).all()
        ]
        if measurements:
            group.MeasurementsSequence = measurements
        append_item(file, group)


def _spool(
    outlines: _Outlines, name: str, points: IO[bytes], indices: IO[bytes]
) -> tuple[int, dict[str, NDArray[np.float32]]]:
    """Write the outlines of a class; how many there are, and their measurements."""
    place, count, written = outlines.folder.classes.index(name), 0, 0
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for batch in shapes(outlines.folder):
        chosen = batch.of_class(place)
        if chosen.has_holes:
            raise InvalidRequestError("DICOM annotations have no holes, which this result has: export it as dsa.")
        scaled = chosen.vertices if outlines.mm_per_px is None else chosen.vertices * outlines.mm_per_px
        points.write(scaled.astype("<f4").tobytes())
        # Where a polygon's first value is among the values of all, counted from 1.
        indices.write((2 * chosen.ring_offsets[:-1] + written + 1).astype("<u4").tobytes())
        written += chosen.vertices.size
        count += len(chosen)
        for title, values in chosen.measurements.items():
            parts.setdefault(title, []).append(values.astype("<f4"))
    points.seek(0)
    indices.seek(0)
    return count, {title: np.concatenate(arrays) for title, arrays in parts.items()}


def _measurement(codes: Codes, place: int, title: str, values: NDArray[np.float32]) -> Dataset:
    """One measurement of all outlines of a group, those that have none left out."""
    known = ~np.isnan(values)
    stored = Dataset()
    stored.FloatingPointValues = values[known].tobytes()
    if not known.all():
        stored.AnnotationIndexList = (np.flatnonzero(known) + 1).astype("<u4").tobytes()
    measurement = Dataset()
    measurement.ConceptNameCodeSequence = [codes.of(f"measurement.{title}", f"measurement-{place}", title)]
    is_area = title.endswith("µm^2")
    unit = code("um2", "UCUM", "square micrometer") if is_area else code("1", "UCUM", "no units")
    measurement.MeasurementUnitsCodeSequence = [unit]
    measurement.MeasurementValuesSequence = [stored]
    return measurement
