"""What all DICOM objects of a result have in common: patient, study, series, equipment, algorithm, references."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import IO, Any, Final

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from slidecascade import __version__, wire
from slidecascade.exports.dicomcodes import code, scheme_identification
from slidecascade.exports.dicomsource import PATIENT_AND_STUDY, SPECIMEN, DicomSlide, Placement
from slidecascade.pipelines.classes import Color

_UTF8: Final = "ISO_IR 192"
_ITEM: Final = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_ITEM_END: Final = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def new_object(summary: wire.Summary, slide: DicomSlide, *, sop_class: str, modality: str) -> Dataset:
    """An object of a series of its own, with everything that does not depend on its kind."""
    now = datetime.now(UTC)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = _UTF8
    for name in PATIENT_AND_STUDY:
        setattr(made, name, slide.identifiers.get(name, ""))
    for name in SPECIMEN:
        if name in slide.identifiers:
            made[name] = slide.identifiers[name]
    made.SOPClassUID = sop_class
    made.SOPInstanceUID, made.SeriesInstanceUID = new_uid(), new_uid()
    made.Modality, made.SeriesNumber, made.InstanceNumber = modality, 1, 1
    made.Manufacturer, made.ManufacturerModelName = "SlideCascade", summary.pipeline[:64]
    made.DeviceSerialNumber, made.SoftwareVersions = summary.models[0].sha256, __version__
    made.CodingSchemeIdentificationSequence = [scheme_identification()]
    made.SeriesDescription = f"{summary.pipeline}: {summary.research_use_only}"[:64]
    made.ContentDate = made.InstanceCreationDate = made.SeriesDate = now.strftime("%Y%m%d")
    made.ContentTime = made.InstanceCreationTime = made.SeriesTime = now.strftime("%H%M%S")
    return made


def add_label(made: Dataset, summary: wire.Summary, label: str) -> None:
    """What the content is, of objects other than reports."""
    made.ContentLabel, made.ContentDescription = label[:16], summary.research_use_only
    made.ContentCreatorName = ""


def refer_to(made: Dataset, image: Dataset) -> None:
    """Refer to the series of the slide."""
    series = Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ReferencedInstanceSequence = [reference_to(image)]
    made.ReferencedSeriesSequence = [series]


def derive_from(made: Dataset, image: Dataset, derivation: Dataset) -> None:
    """All frames of an image are derived from the slide."""
    refer_to(made, image)
    source, derived = reference_to(image), Dataset()
    source.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    derived.SourceImageSequence, derived.DerivationCodeSequence = [source], [derivation]
    made.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [derived]


def reference_to(image: Dataset) -> Dataset:
    """An item that refers to the slide's base level."""
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return made


def make_image(made: Dataset, placement: Placement, corner_l0: tuple[float, float], downsample: float) -> None:
    """The attributes of an image of whole-slide pixels.

    Args:
        corner_l0: of its first pixel.
        downsample: level-0 pixels per pixel.
    """
    made.ImageOrientationSlide = [number(cosine) for cosine in placement.orientation]
    made.TotalPixelMatrixOriginSequence = [position(placement, corner_l0, downsample)]
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = placement.frame_of_reference, "SLIDE_CORNER"
    made.PatientOrientation = ""
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.LossyImageCompression, made.BurnedInAnnotation = "00", "NO"
    made.TotalPixelMatrixFocalPlanes = 1
    measures = Dataset()
    measures.PixelSpacing = [number(spacing * downsample) for spacing in placement.spacing_mm]
    if placement.thickness_mm is not None:
        measures.SliceThickness = number(placement.thickness_mm)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    orientation = Dataset()
    orientation.ImageOrientationSlide = made.ImageOrientationSlide
    shared.PlaneOrientationSequence = [orientation]
    made.SharedFunctionalGroupsSequence = [shared]


def position(placement: Placement, corner_l0: tuple[float, float], downsample: float) -> Dataset:
    """Offsets of the centre of the pixel with this corner."""
    x_mm, y_mm, z_mm = placement.position_mm(corner_l0[0] + downsample / 2, corner_l0[1] + downsample / 2)
    made = Dataset()
    made.XOffsetInSlideCoordinateSystem, made.YOffsetInSlideCoordinateSystem = number(x_mm), number(y_mm)
    if z_mm:
        made.ZOffsetInSlideCoordinateSystem = number(z_mm)
    return made


def number(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return next(text for digits in range(15, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def algorithm(summary: wire.Summary) -> Dataset:
    """The pipeline with the versions and sha256 of its models."""
    made = Dataset()
    made.AlgorithmFamilyCodeSequence = [code("123110", "DCM", "Artificial Intelligence")]
    made.AlgorithmName = summary.pipeline[:64]
    made.AlgorithmVersion = versions(summary)
    made.AlgorithmParameters = "; ".join(digests(summary))
    return made


def versions(summary: wire.Summary) -> str:
    """Names and versions of the models, at most 64 characters."""
    return ", ".join(f"{model.name} {model.version}" for model in summary.models)[:64]


def digests(summary: wire.Summary) -> list[str]:
    """Names and sha256 of the models."""
    return [f"{model.name} sha256 {model.sha256}" for model in summary.models]


def append(file: IO[bytes], elements: Dataset) -> None:
    """Write elements at the end of a file of explicit little endian."""
    writer = DicomFileLike(file)
    writer.is_little_endian, writer.is_implicit_VR = True, False
    write_dataset(writer, elements, parent_encoding=_UTF8)


def begin_sequence(file: IO[bytes], tag: int) -> None:
    """Begin a sequence of undefined length."""
    file.write(
        (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + b"SQ\0\0\xff\xff\xff\xff"
    )


def append_item(file: IO[bytes], item: Dataset) -> None:
    """Write an item of a sequence of undefined length."""
    file.write(_ITEM)
    append(file, item)
    file.write(_ITEM_END)


def split(made: Dataset, tag: int) -> Dataset:
    """Take the elements from `tag` on out of `made`."""
    after = made[tag:]
    for key in list(after.keys()):
        del made[key]
    return after


def new_uid() -> str:
    """A UID that no other object has."""
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
