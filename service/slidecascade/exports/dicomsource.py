"""The slide that DICOM objects refer to: a DICOM slide's base level, or the identifiers of a worklist."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from slidecascade import wire
from slidecascade.errors import InvalidRequestError
from slidecascade.exports.inputs import Inputs
from slidecascade.geometry import Mpp

WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""
PATIENT_AND_STUDY: Final = (
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
SPECIMEN: Final = (
    "ContainerIdentifier",
    "IssuerOfTheContainerIdentifierSequence",
    "ContainerTypeCodeSequence",
    "SpecimenDescriptionSequence",
)
_NEEDED: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "TotalPixelMatrixColumns")
_UID_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:slidecascade:dicom")
_UPRIGHT: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where level 0 lies in a slide's coordinate system (Part 3, C.8.12.2.1.1), in millimetres.

    Attributes:
        frame_of_reference: its UID.
        origin_mm: the centre of the first pixel.
        orientation: direction cosines of rows, then of columns.
        spacing_mm: between rows, and between columns.
        thickness_mm: depth of field, where the slide states one.
    """

    frame_of_reference: str
    origin_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None = None

    def position_mm(self, x_l0: float, y_l0: float) -> tuple[float, float, float]:
        """The place of a level-0 position; 0.5 is the centre of the first pixel."""
        right, down = (x_l0 - 0.5) * self.spacing_mm[1], (y_l0 - 0.5) * self.spacing_mm[0]
        along, across = self.orientation[:3], self.orientation[3:]
        x, y, z = (
            start + right * by_x + down * by_y
            for start, by_x, by_y in zip(self.origin_mm, along, across, strict=True)
        )
        return (x, y, z)


@dataclass(frozen=True, slots=True)
class DicomSlide:
    """What an object inherits.

    Attributes:
        identifiers: patient, study and specimen.
        image: the attributes of the base level, without its pixels; None: the slide is not DICOM.
        frame_of_reference: UID of a slide that is not DICOM; the same for the same content.
    """

    identifiers: Dataset
    image: Dataset | None
    frame_of_reference: str

    def placement(self, mpp: Mpp) -> Placement:
        """Where the slide lies; one that is not DICOM has its corner at the origin, x to the right.

        Raises:
            InvalidRequestError: the DICOM slide does not state it.
        """
        if self.image is None:
            spacing_mm = mpp / 1000
            centre_mm = (spacing_mm / 2, spacing_mm / 2, 0.0)
            return Placement(self.frame_of_reference, centre_mm, _UPRIGHT, (spacing_mm, spacing_mm))
        try:
            origin = self.image.TotalPixelMatrixOriginSequence[0]
            measures = self.image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
            return Placement(
                str(self.image.FrameOfReferenceUID),
                (
                    float(origin.XOffsetInSlideCoordinateSystem),
                    float(origin.YOffsetInSlideCoordinateSystem),
                    float(origin.get("ZOffsetInSlideCoordinateSystem") or 0.0),
                ),
                tuple(float(cosine) for cosine in self.image.ImageOrientationSlide),
                (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1])),
                float(measures.SliceThickness) if measures.get("SliceThickness") else None,
            )
        except (AttributeError, IndexError, TypeError) as error:
            raise InvalidRequestError(
                "The DICOM slide does not state where it lies (FrameOfReferenceUID, ImageOrientationSlide, "
                "TotalPixelMatrixOriginSequence, PixelSpacing): name a complete file of its base level."
            ) from error


class Worklist(BaseModel):
    """Identifiers of a slide that is not DICOM, by their DICOM keywords."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    StudyInstanceUID: str
    PatientID: str = ""
    PatientName: str = ""
    PatientBirthDate: str = ""
    PatientSex: str = ""
    StudyDate: str = ""
    StudyTime: str = ""
    StudyID: str = ""
    AccessionNumber: str = ""
    ReferringPhysicianName: str = ""
    ContainerIdentifier: str | None = None
    SpecimenIdentifier: str | None = None
    SpecimenUID: str | None = None


def read_slide(inputs: Inputs, summary: wire.Summary) -> DicomSlide:
    """The slide of a result.

    Raises:
        InvalidRequestError: neither file is given, one cannot be used, or the region lies outside the DICOM slide.
    """
    slide = summary.slide
    frame = derived_uid(f"frame/{slide.content_id if slide else summary.pipeline}")
    if inputs.dicom_source is not None:
        image = _read_image(inputs.dicom_source, summary.region)
        return DicomSlide(image, image, frame)
    if inputs.dicom_worklist is not None:
        return DicomSlide(_read_worklist(inputs.dicom_worklist), None, frame)
    raise InvalidRequestError(
        "DICOM needs the slide: name its base level with --dicom-source, or the identifiers of a slide that is "
        "not DICOM with --dicom-worklist."
    )


def derived_uid(name: str) -> str:
    """A UID that is the same for the same `name`."""
    return f"2.25.{uuid.uuid5(_UID_NAMESPACE, name).int}"


def _read_image(path: Path, region: wire.RegionBox) -> Dataset:
    try:
        source = _read_head(path)
    except (OSError, InvalidDicomError, ValueError, TypeError) as error:
        raise InvalidRequestError(f"{path} cannot be read as DICOM: name a file of a DICOM slide.") from error
    if source.get("SOPClassUID") != WHOLE_SLIDE or any(name not in source for name in _NEEDED):
        raise InvalidRequestError(f"{path} is not a whole slide image: name a file of the slide's base level.")
    columns, rows = source.TotalPixelMatrixColumns, source.TotalPixelMatrixRows
    right, bottom = region.x + region.width, region.y + region.height
    if right > columns or bottom > rows:
        raise InvalidRequestError(
            f"The region ends at ({right}, {bottom}), beyond the {columns} x {rows} px"
            f" of {path}: name a file of the base level of the analysed slide."
        )
    return source


def _read_head(path: Path) -> Dataset:
    """The attributes of a file, or those in DICOM's JSON model (PS3.18, F), as DICOMweb servers state them."""
    if path.suffix == ".json":
        return Dataset.from_json(path.read_text(encoding="utf-8"), bulk_data_uri_handler=lambda *_: None)
    return dcmread(path, stop_before_pixels=True)


def _read_worklist(path: Path) -> Dataset:
    """The identifiers in YAML, or in an item of a DICOM modality worklist."""
    try:
        if path.suffix.lower() not in (".yaml", ".yml", ".json"):
            item = dcmread(path, stop_before_pixels=True)
            if "StudyInstanceUID" not in item:
                raise InvalidRequestError(f"{path} has no StudyInstanceUID: name an item of a worklist.")
            return item
        listed = Worklist.model_validate(yaml.safe_load(path.read_bytes()) or {})
    except (OSError, yaml.YAMLError, InvalidDicomError) as error:
        raise InvalidRequestError(f"{path} cannot be read: check the path and its syntax.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"{path}: {place}: {first['msg']}; see docs/export.md.") from error
    made = Dataset()
    for name in PATIENT_AND_STUDY:
        setattr(made, name, getattr(listed, name))
    if listed.ContainerIdentifier is not None:
        _add_specimen(made, listed, listed.ContainerIdentifier)
    return made


def _add_specimen(made: Dataset, listed: Worklist, container: str) -> None:
    specimen = Dataset()
    specimen.SpecimenIdentifier = listed.SpecimenIdentifier or container
    specimen.SpecimenUID = listed.SpecimenUID or derived_uid(f"specimen/{specimen.SpecimenIdentifier}")
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    made.ContainerIdentifier = container
    made.IssuerOfTheContainerIdentifierSequence = []
    made.ContainerTypeCodeSequence = []
    made.SpecimenDescriptionSequence = [specimen]
