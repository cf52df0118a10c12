"""Outlines as DICOM Microscopy Bulk Simple Annotations, a group for each class.

Part 3 of the DICOM standard, A.84 and C.37.1. On a DICOM slide, coordinates are pixels of the base level's total
pixel matrix (2D, origin VOLUME), which are level-0 pixels. On other slides they are millimetres from the slide's
corner (3D), in a frame of reference of its own.

Coordinates and measurements are written to temporary files batch by batch and copied from there: a batch is in
memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from slidecascade.exports.shapes import Shapes, shapes
from slidecascade.outputs.gzipped import READ_BYTES
from slidecascade.pipelines.classes import Color

BULK_ANNOTATIONS: Final = "1.2.840.10008.5.1.4.1.1.91.1"
"""Microscopy Bulk Simple Annotations Storage."""
_GROUPS_TAG: Final = 0x006A0002


@dataclass(slots=True)
class _Measured:
    """A measurement of a class, in files; outlines that have none are left out.

    Attributes:
        values: 32-bit floats.
        places: of the outlines that have them, counted from 1.
    """

    values: IO[bytes]
    places: IO[bytes]
    count: int = 0

    def add(self, values: NDArray[np.float64], *, first: int) -> None:
        """Append values of outlines, `first` of which come before them."""
        known = np.flatnonzero(~np.isnan(values))
        self.values.write(values[known].astype("<f4").tobytes())
        self.places.write((known + first + 1).astype("<u4").tobytes())
        self.count += len(known)


@dataclass(slots=True)
class _Spool:
    """The outlines of a class and their measurements, in files, which are closed with `files`.

    Attributes:
        points: coordinates, 32-bit floats.
        indices: where each polygon's first value is among the values of all, counted from 1.
        measured: by name, in the order of their first appearance.
    """

    files: ExitStack
    points: IO[bytes] = field(init=False)
    indices: IO[bytes] = field(init=False)
    count: int = 0
    measured: dict[str, _Measured] = field(default_factory=dict)
    _values: int = 0

    def __post_init__(self) -> None:
        self.points, self.indices = _temporary(self.files), _temporary(self.files)

    def add(self, chosen: Shapes, *, scale: float) -> None:
        """Append outlines, which have no holes, with coordinates times `scale`."""
        self.points.write((chosen.vertices * scale).astype("<f4").tobytes())
        self.indices.write((2 * chosen.ring_offsets[:-1] + self._values + 1).astype("<u4").tobytes())
        for title, values in chosen.measurements.items():
            if title not in self.measured:
                self.measured[title] = _Measured(_temporary(self.files), _temporary(self.files))
            self.measured[title].add(values, first=self.count)
        self._values += chosen.vertices.size
        self.count += len(chosen)

    def rewind(self) -> None:
        """Let all files be read from their start."""
        for one in self.measured.values():
            one.values.seek(0)
            one.places.seek(0)
        self.points.seek(0)
        self.indices.seek(0)


def bulk_annotations(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The DICOM file, in pieces.

    Raises:
        InvalidRequestError: the source slide cannot be used, or an outline has holes, which the format has not.
    """
    slide = read_slide(inputs, folder.summary)
    codes = read_codes(inputs.dicom_codes, folder.classes)
    names = [name for name in folder.classes if folder.summary.counts[name]]
    if not names:
        raise InvalidRequestError("The result has no outlines: a DICOM annotation object needs at least one.")
    colors = folder.colors()
    with ExitStack() as files:
        spools = {name: _Spool(files) for name in names}
        _spool(folder, spools, scale=1.0 if slide.image is not None else folder.mpp / 1000)
        file = _temporary(files)
        # Groups are appended one after another, between the elements with smaller tags and those with larger ones.
        made = _object(folder, slide)
        after = split(made, _GROUPS_TAG)
        dcmwrite(file, made, enforce_file_format=True)
        file.seek(0, 2)
        begin_sequence(file, _GROUPS_TAG)
        for number, (name, spool) in enumerate(spools.items(), start=1):
            group = _group(folder, codes, name, spool, colors[name])
            group.AnnotationGroupNumber = number
            if slide.image is None:
                group.CommonZCoordinateValue, group.AnnotationAppliesToAllZPlanes = 0.0, "NO"
            append_item(file, group)
        file.write(SEQUENCE_END)
        append(file, after)
        file.seek(0)
        while piece := file.read(READ_BYTES):
            yield piece


def _temporary(files: ExitStack) -> IO[bytes]:
    """A file that is closed, and gone, with `files`."""
    return files.enter_context(tempfile.TemporaryFile())


def _spool(folder: ResultFolder, spools: Mapping[str, _Spool], *, scale: float) -> None:
    """Read the outlines once, and divide them by class."""
    for batch in shapes(folder):
        if batch.has_holes:
            raise InvalidRequestError("DICOM annotations have no holes, which this result has: export it as dsa.")
        for name, spool in spools.items():
            spool.add(batch.of_class(folder.classes.index(name)), scale=scale)
    for spool in spools.values():
        spool.rewind()


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


def _group(folder: ResultFolder, codes: Codes, name: str, spool: _Spool, color: Color) -> Dataset:
    """The attributes of one class's group, without its number."""
    group = Dataset()
    group.AnnotationGroupUID, group.AnnotationGroupLabel = new_uid(), name[:64]
    group.AnnotationGroupGenerationType = "AUTOMATIC"
    group.AnnotationGroupAlgorithmIdentificationSequence = [algorithm(folder.summary)]
    group.AnnotationPropertyCategoryCodeSequence = [code("91723000", "SCT", "Anatomical structure")]
    group.AnnotationPropertyTypeCodeSequence = [codes.of_class(name)]
    group.GraphicType, group.AnnotationAppliesToAllOpticalPaths = "POLYGON", "YES"
    group.RecommendedDisplayCIELabValue = cielab(color)
    group.NumberOfAnnotations = spool.count
    group.PointCoordinatesData, group.LongPrimitivePointIndexList = spool.points, spool.indices
    measurements = [
        _measurement(codes, place, title, measured, spool.count)
        for place, (title, measured) in enumerate(spool.measured.items(), start=1)
        if measured.count
    ]
    if measurements:
        group.MeasurementsSequence = measurements
    return group


def _measurement(codes: Codes, place: int, title: str, measured: _Measured, outlines: int) -> Dataset:
    """One measurement of a group of `outlines`."""
    stored = Dataset()
    stored.FloatingPointValues = measured.values
    if measured.count < outlines:
        stored.AnnotationIndexList = measured.places
    measurement = Dataset()
    measurement.ConceptNameCodeSequence = [codes.of(f"measurement.{title}", f"measurement-{place}", title)]
    is_area = title.endswith("µm^2")
    unit = code("um2", "UCUM", "square micrometer") if is_area else code("1", "UCUM", "no units")
    measurement.MeasurementUnitsCodeSequence = [unit]
    measurement.MeasurementValuesSequence = [stored]
    return measurement
